"""SQL of replicas: rows in and out, every write guarded; no decisions."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

import msgspec
from sqlalchemy import (
    BindParameter,
    Row,
    Text,
    and_,
    bindparam,
    cast,
    func,
    insert,
    or_,
    select,
    text,
    update,
)

from weighbridge.engines.base import EngineSettings
from weighbridge.errors import StaleError
from weighbridge.replicas.model import TRANSITIONS, Replica, ReplicaState
from weighbridge.storage.database import Transaction
from weighbridge.storage.tables import deployments, model_versions, replicas

ENGINES_KEPT = 1024
FINAL = tuple(state for state in ReplicaState if state.final)
ENDED = (ReplicaState.FAILED, ReplicaState.LOST)
_NAMES = tuple(field.name for field in fields(Replica))
_COLUMNS = tuple(replicas.c[name] for name in _NAMES)
_STATE, _FLIPS = _NAMES.index("state"), _NAMES.index("flips")
_FIXED = frozenset({"id", "endpoint_id", "slot", "created_at", "revision"})
_BY_PUBLISHER = frozenset({"routed_generation", "unrouted_generation"})
"""Written by the routes publisher alone, so a planner's write leaves them as they are."""
_PLANNED = tuple(name for name in _NAMES if name not in _FIXED | _BY_PUBLISHER)


@dataclass(frozen=True, slots=True)
class Watched:
    """A replica that is not final, with what its launch and its probes need."""

    replica: Replica
    org_id: str
    engine: EngineSettings
    size_bytes: int
    examined: bool = False
    """Whether it was started with acceptance probes."""


def _replica(row: Sequence[object]) -> Replica:
    """Of a row that begins with `_COLUMNS`."""
    values: list[Any] = list(row[: len(_NAMES)])  # as its columns are typed
    values[_STATE] = ReplicaState(values[_STATE])
    values[_FLIPS] = tuple(values[_FLIPS])
    return Replica(*values)


def _all(rows: Iterable[Row[tuple[object, ...]]]) -> list[Replica]:
    return [_replica(row) for row in rows]


# What every pass of the control plane asks or writes is put together once: that costs more than to ask it.
_IDS: BindParameter[object] = bindparam("ids", expanding=True)
_WATCHED = (
    select(
        *_COLUMNS,
        deployments.c.org_id.label("org_id"),
        cast(deployments.c.engine, Text).label("engine"),
        model_versions.c.bytes_total.label("size_bytes"),
        replicas.c.probes.is_not(None).label("examined"),
    )
    .join(deployments, deployments.c.id == replicas.c.deployment_id)
    .join(model_versions, model_versions.c.id == replicas.c.version_id)
    .where(replicas.c.state.not_in(FINAL))
    .order_by(replicas.c.created_at, replicas.c.id)
)
_OF_ENDPOINT = (
    select(*_COLUMNS)
    .where(
        replicas.c.endpoint_id == bindparam("endpoint"),
        or_(
            replicas.c.state.not_in(FINAL),
            and_(
                replicas.c.state.in_(ENDED),
                or_(
                    replicas.c.state_since >= bindparam("failed_since"),
                    replicas.c.failure_counted.is_(False),
                ),
            ),
        ),
    )
    .order_by(replicas.c.created_at, replicas.c.id)
)
# In the order in which every other writer takes them, so that none waits for another in a circle.
_LOCK_OPEN = (
    select(replicas.c.id)
    .where(replicas.c.endpoint_id == bindparam("endpoint"), replicas.c.state.not_in(FINAL))
    .order_by(replicas.c.id)
    .with_for_update(key_share=True)
)
_LOCK = (
    select(replicas.c.id).where(replicas.c.id.in_(_IDS)).order_by(replicas.c.id).with_for_update()
)
_FIND = select(*_COLUMNS).where(replicas.c.id == bindparam("replica"))
_ENDED = select(*_COLUMNS).where(replicas.c.id.in_(_IDS), replicas.c.state.in_(FINAL))
_SLOTS_TAKEN = select(replicas.c.slot).where(replicas.c.state.not_in(FINAL))
_ADD = insert(replicas)
# An UPDATE without values sets the columns that its parameters name.
_SAVE = update(replicas).where(
    replicas.c.id == bindparam("seen_id"),
    replicas.c.revision == bindparam("seen_revision"),
    replicas.c.state == bindparam("seen_state"),
)
_COUNT_FAILURES = (
    update(replicas)
    .where(
        replicas.c.id.in_(_IDS),
        replicas.c.state.in_(ENDED),
        replicas.c.failure_counted.is_(False),
    )
    .values(failure_counted=True)
)
_NOTE_ROUTED = update(replicas).where(
    replicas.c.id.in_(_IDS),
    replicas.c.state == ReplicaState.READY,
    replicas.c.routed_generation.is_(None),
)
_NOTE_UNROUTED = update(replicas).where(
    replicas.c.id.in_(_IDS),
    replicas.c.state == ReplicaState.DRAINING,
    replicas.c.unrouted_generation.is_(None),
)

# Those that failed too: how lately, and in which order, is asked of them.
_SHIFT_TIMES = text(
    """
    UPDATE replicas
    SET created_at = created_at + make_interval(secs => :shift_s),
        state_since = state_since + make_interval(secs => :shift_s),
        ready_at = ready_at + make_interval(secs => :shift_s),
        routed_at = routed_at + make_interval(secs => :shift_s),
        drain_deadline = drain_deadline + make_interval(secs => :shift_s),
        drain_began_at = drain_began_at + make_interval(secs => :shift_s),
        flips = ARRAY(
            SELECT flip.at + make_interval(secs => :shift_s)
            FROM unnest(flips) WITH ORDINALITY AS flip (at, place) ORDER BY flip.place
        ),
        revision = revision + 1
    WHERE state <> 'stopped'
    """
)


@lru_cache(maxsize=ENGINES_KEPT)
def _engine(text: str) -> EngineSettings:
    """Thousands of replicas share a few settings: each is read, and kept in memory, once."""
    return msgspec.json.decode(text, type=EngineSettings)


async def watched(tx: Transaction) -> list[Watched]:
    """Every replica that is not final, oldest first."""
    return [
        Watched(
            replica=_replica(row),
            org_id=row.org_id,
            engine=_engine(row.engine),
            size_bytes=row.size_bytes,
            examined=row.examined,
        )
        for row in await tx.execute(_WATCHED)
    ]


async def of_endpoint(
    tx: Transaction, endpoint_id: str, *, failed_since: datetime
) -> list[Replica]:
    """An endpoint's replicas: those not final, and those that ended badly lately or are not accounted for."""
    values = {"endpoint": endpoint_id, "failed_since": failed_since}
    return _all(await tx.execute(_OF_ENDPOINT, values))


async def lock_open(tx: Transaction, endpoint_id: str) -> None:
    """Keep an endpoint's replicas as they are until commit, those that are not final."""
    await tx.execute(_LOCK_OPEN, {"endpoint": endpoint_id})


async def listing(tx: Transaction, endpoint_id: str | None, *, limit: int = 200) -> list[Replica]:
    """Replicas as an operator sees them: those not final first, then the newest ended ones."""
    query = select(*_COLUMNS).order_by(
        replicas.c.state.in_(FINAL), replicas.c.created_at.desc(), replicas.c.id
    )
    if endpoint_id is not None:
        query = query.where(replicas.c.endpoint_id == endpoint_id)
    return _all(await tx.execute(query.limit(limit)))


async def counts_of(tx: Transaction, endpoint_id: str) -> list[tuple[int, ReplicaState, int]]:
    """How many of an endpoint's replicas that are not final are in each state, by version number."""
    query = (
        select(replicas.c.version_number, replicas.c.state, func.count())
        .where(replicas.c.endpoint_id == endpoint_id, replicas.c.state.not_in(FINAL))
        .group_by(replicas.c.version_number, replicas.c.state)
        .order_by(replicas.c.version_number, replicas.c.state)
    )
    return [(number, ReplicaState(state), n) for number, state, n in await tx.execute(query)]


async def find(tx: Transaction, replica_id: str) -> Replica | None:
    row = (await tx.execute(_FIND, {"replica": replica_id})).one_or_none()
    return None if row is None else _replica(row)


async def ended_since(tx: Transaction, replica_ids: Sequence[str]) -> dict[str, Replica]:
    """The final ones among these replicas, by id."""
    rows = await tx.execute(_ENDED, {"ids": replica_ids})
    return {replica.id: replica for replica in _all(rows)}


async def digests_in_use(tx: Transaction) -> frozenset[str]:
    """The manifests of replicas that are not final."""
    query = select(replicas.c.digest).distinct().where(replicas.c.state.not_in(FINAL))
    return frozenset((await tx.execute(query)).scalars())


async def slots_taken(tx: Transaction) -> set[int]:
    return set((await tx.execute(_SLOTS_TAKEN)).scalars())


async def add(tx: Transaction, new: Sequence[Replica]) -> None:
    if new:
        await tx.execute(_ADD, [{name: _value(one, name) for name in _NAMES} for one in new])


def _value(replica: Replica, name: str) -> object:
    value: object = getattr(replica, name)
    return list(value) if isinstance(value, tuple) else value


async def save(tx: Transaction, before: Replica, after: Replica) -> None:
    """Write what changed; StaleError when somebody else wrote since `before` was read."""
    if after.state is not before.state:
        assert after.state in TRANSITIONS[before.state], (before.state, after.state)
    changed = {
        name: _value(after, name)
        for name in _PLANNED
        if getattr(after, name) != getattr(before, name)
    }
    if not changed:
        return
    seen = {
        "seen_id": before.id,
        "seen_revision": before.revision,
        "seen_state": before.state,
        "revision": before.revision + 1,
    }
    result = await tx.execute(_SAVE, changed | seen)
    if result.rowcount != 1:
        raise StaleError(f"replica {before.id} changed since it was read")


async def count_failures(tx: Transaction, replica_ids: Sequence[str]) -> None:
    """Mark ended replicas as accounted for; StaleError when one was accounted for meanwhile."""
    if not replica_ids:
        return
    result = await tx.execute(_COUNT_FAILURES, {"ids": replica_ids})
    if result.rowcount != len(replica_ids):
        raise StaleError("a replica's failure was counted meanwhile")


async def shift_times(tx: Transaction, shift: timedelta) -> None:
    """Move the times of replicas to those of a controller whose clock shows another time (D6).

    They all move alike, so what lies between two of them stays as long, and each deadline as far away.
    """
    await tx.execute(_SHIFT_TIMES, {"shift_s": shift.total_seconds()})


async def record_routed(
    tx: Transaction, generation: int, *, routed: Sequence[str], unrouted: Sequence[str]
) -> int:
    """Note the first table that named a replica, and the first that no longer did; the number of rows noted."""
    noted = 0
    await tx.execute(_LOCK, {"ids": [*routed, *unrouted]})
    if routed:
        values = {"ids": routed, "routed_generation": generation}
        noted += (await tx.execute(_NOTE_ROUTED, values)).rowcount
    if unrouted:
        values = {"ids": unrouted, "unrouted_generation": generation}
        noted += (await tx.execute(_NOTE_UNROUTED, values)).rowcount
    return noted
