"""SQL of receipts: the heads of their chains, their entries, and what a seal adds up from other tables."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Row, Update, bindparam, exists, func, insert, or_, select, text, update
from sqlalchemy.dialects import postgresql

from weighbridge.errors import StaleError
from weighbridge.sdk.receipts.chain import GENESIS, Entry, canonical
from weighbridge.storage.database import Transaction
from weighbridge.storage.history_tables import receipt_entries, receipts, usage_requests
from weighbridge.storage.tables import (
    ROLLOUT_FINAL,
    deployments,
    replicas,
)

LEAVING = ("draining", "stopping", "failing")


@dataclass(frozen=True, slots=True)
class Head:
    """Where a receipt's chain stands."""

    deployment_id: str
    endpoint_id: str
    following: bool
    entries: int
    omitted: int
    head: str
    signature: str | None
    sealed_at: datetime | None


def _head(row: Row[tuple[object, ...]]) -> Head:
    return Head(
        row.deployment_id,
        row.endpoint_id,
        row.following,
        row.entries,
        row.omitted,
        row.head,
        row.signature,
        row.sealed_at,
    )


# What goes with every step of a rollout is put together once: that costs more than to ask it.
_OF = receipts.c.deployment_id == bindparam("deployment")
_BEGIN = (
    postgresql.insert(receipts)
    .values(deployment_id=bindparam("deployment"), endpoint_id=bindparam("endpoint"), head=GENESIS)
    .on_conflict_do_nothing(index_elements=["deployment_id"])
)
_LOCK = select(receipts).where(_OF).with_for_update()
_UNFOLLOW = (
    update(receipts)
    .where(receipts.c.endpoint_id == bindparam("endpoint"), receipts.c.following)
    .values(following=False)
)
_FOLLOW = update(receipts).where(_OF).values(following=True)
_FIND = select(receipts).where(_OF)
_ENTRIES = (
    select(receipt_entries)
    .where(
        receipt_entries.c.deployment_id == bindparam("deployment"),
        receipt_entries.c.sequence <= bindparam("last"),
    )
    .order_by(receipt_entries.c.sequence)
)
_ADD_ENTRIES = insert(receipt_entries)
_MOVE_HEAD = (
    update(receipts)
    .where(_OF, receipts.c.entries == bindparam("seen_entries"), receipts.c.sealed_at.is_(None))
    .values(entries=bindparam("entries_now"), head=bindparam("head_now"))
)
_APPEND = _MOVE_HEAD.values(omitted=receipts.c.omitted + bindparam("more_omitted"))
_SEAL = _MOVE_HEAD.values(
    sealed_at=bindparam("now"), signature=bindparam("signed"), following=False
)
_LOCK_FOLLOWED = (
    select(receipts)
    .where(receipts.c.endpoint_id == bindparam("endpoint"), receipts.c.following)
    .with_for_update()
)
_ROUTABLE = select(func.count()).where(
    replicas.c.endpoint_id == bindparam("endpoint"),
    replicas.c.state == "ready",
    replicas.c.routed_at.is_not(None),
)
_SEALABLE = (
    select(receipts.c.deployment_id)
    .join(deployments, deployments.c.id == receipts.c.deployment_id)
    .where(
        receipts.c.sealed_at.is_(None),
        deployments.c.status.in_(ROLLOUT_FINAL),
        deployments.c.finished_at <= bindparam("ended_before"),
        or_(
            ~receipts.c.following,
            ~exists().where(
                replicas.c.endpoint_id == receipts.c.endpoint_id, replicas.c.state.in_(LEAVING)
            ),
            deployments.c.finished_at <= bindparam("abandoned_before"),
        ),
    )
    .order_by(receipts.c.deployment_id)
    .limit(bindparam("limit"))
)


async def begin(tx: Transaction, deployment_id: str, endpoint_id: str) -> None:
    """An empty receipt, unless there is one."""
    await tx.execute(_BEGIN, {"deployment": deployment_id, "endpoint": endpoint_id})


async def lock(tx: Transaction, deployment_id: str) -> Head | None:
    """The receipt, locked until commit: whoever appends takes it last, after every other row."""
    row = (await tx.execute(_LOCK, {"deployment": deployment_id})).one_or_none()
    return None if row is None else _head(row)


async def lock_followed(tx: Transaction, endpoint_id: str) -> Head | None:
    """The receipt that tells of an endpoint's replicas now, locked likewise."""
    row = (await tx.execute(_LOCK_FOLLOWED, {"endpoint": endpoint_id})).one_or_none()
    return None if row is None else _head(row)


async def follow(tx: Transaction, deployment_id: str, endpoint_id: str) -> None:
    """From now on this receipt tells of the endpoint's replicas, and no earlier one."""
    await tx.execute(_UNFOLLOW, {"endpoint": endpoint_id})
    await tx.execute(_FOLLOW, {"deployment": deployment_id})


async def routable(tx: Transaction, endpoint_id: str) -> int:
    """Replicas to which every gateway routes, with what this transaction has written."""
    return int((await tx.execute(_ROUTABLE, {"endpoint": endpoint_id})).scalar_one())


async def append(tx: Transaction, head: Head, entries: Sequence[Entry], *, omitted: int) -> None:
    """Write the entries and move the head; StaleError when it is no longer where it was read."""
    await _write(tx, head, entries, _APPEND, {"more_omitted": omitted})


async def seal(
    tx: Transaction, head: Head, entries: Sequence[Entry], *, signature: str | None, now: datetime
) -> None:
    """Write the last entries and close the receipt; StaleError likewise.

    One statement: at a second one PostgreSQL would ask after the endpoint again, and wait for its lock with the
    receipt's in hand, while the step of a rollout that has the endpoint waits for the receipt.
    """
    await _write(tx, head, entries, _SEAL, {"now": now, "signed": signature})


async def _write(
    tx: Transaction,
    head: Head,
    entries: Sequence[Entry],
    statement: Update,
    values: Mapping[str, object],
) -> None:
    if entries:
        await tx.execute(
            _ADD_ENTRIES,
            [
                {
                    "deployment_id": head.deployment_id,
                    "sequence": entry.sequence,
                    "payload": canonical(entry.payload),
                    "previous": entry.previous,
                    "hash": entry.hash,
                }
                for entry in entries
            ],
        )
    move = {
        "deployment": head.deployment_id,
        "seen_entries": head.entries,
        "entries_now": head.entries + len(entries),
        "head_now": entries[-1].hash if entries else head.head,
        **values,
    }
    moved = await tx.execute(statement, move)
    if moved.rowcount != 1:
        raise StaleError(f"the receipt of deployment {head.deployment_id} has moved on")


async def find(tx: Transaction, deployment_id: str) -> Head | None:
    row = (await tx.execute(_FIND, {"deployment": deployment_id})).one_or_none()
    return None if row is None else _head(row)


async def entries_of(tx: Transaction, deployment_id: str, limit: int) -> list[Entry]:
    """The first `limit` entries, in order."""
    rows = await tx.execute(_ENTRIES, {"deployment": deployment_id, "last": limit})
    return [Entry(row.sequence, json.loads(row.payload), row.previous, row.hash) for row in rows]


async def sealable(
    tx: Transaction, *, ended_before: datetime, abandoned_before: datetime, limit: int
) -> Sequence[str]:
    """Ended deployments whose receipt is open and of whose replicas none is on its way out any more.

    Not waited for: what another rollout's receipt tells by now, and what is still not gone after
    `abandoned_before`.
    """
    values = {"ended_before": ended_before, "abandoned_before": abandoned_before, "limit": limit}
    return (await tx.execute(_SEALABLE, values)).scalars().all()


async def held_requests(tx: Transaction, endpoint_id: str, begin: datetime, end: datetime) -> int:
    """Requests of an endpoint that ended in [begin, end] and had been held for want of a ready replica."""
    seen = usage_requests.c
    query = select(func.count()).where(
        seen.endpoint_id == endpoint_id,
        seen.ended_at >= begin,
        seen.ended_at <= end,
        seen.held_s > 0,
    )
    return int((await tx.execute(query)).scalar_one())


_REQUESTS_BY_VERSION = text(
    """
    SELECT version, count(*) AS requests, count(*) FILTER (WHERE status >= 500) AS failed
    FROM usage_requests
    WHERE endpoint_id = :endpoint AND ended_at >= :begin AND ended_at <= :end
    GROUP BY version
    ORDER BY version
    """
)


async def requests_by_version(
    tx: Transaction, endpoint_id: str, begin: datetime, end: datetime
) -> Sequence[Mapping[str, int]]:
    """Requests of an endpoint that ended in [begin, end], and how many of them failed, by version."""
    values = {"endpoint": endpoint_id, "begin": begin, "end": end}
    return [
        {"version": row.version, "requests": row.requests, "failed": row.failed}
        for row in await tx.execute(_REQUESTS_BY_VERSION, values)
    ]
