"""SQL of deployments and of the endpoints' side of a rollout; every write guarded, no decisions."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, Text, bindparam, cast, func, insert, select, text, update

from weighbridge.endpoints.model import Endpoint
from weighbridge.endpoints.store import read_endpoint
from weighbridge.errors import StaleError
from weighbridge.rollouts.model import TRANSITIONS, Deployment, RolloutStatus
from weighbridge.storage.database import Transaction
from weighbridge.storage.tables import architectures, deployments, endpoints, model_versions

OPEN = tuple(status for status in RolloutStatus if not status.final)
ACTIVE = (RolloutStatus.IN_PROGRESS, RolloutStatus.ROLLING_BACK)
_NAMES = tuple(field.name for field in fields(Deployment))
_COLUMNS = tuple(deployments.c[name] for name in _NAMES)
_GIVEN = tuple(name for name in _NAMES if name != "settings_digest")
_STATUS = _NAMES.index("status")
_FIXED = frozenset({"id", "endpoint_id", "created_at", "updated_at", "revision"})

_RESTLESS = text(
    """
    WITH alive AS (
        SELECT r.endpoint_id,
               count(*) AS wanted,
               count(*) FILTER (
                   WHERE r.state <> 'ready'
                     AND (b.id IS NULL
                          OR (r.version_id, r.settings_digest)
                             <> (b.version_id, b.settings_digest))
               ) AS strays
        FROM replicas r
        JOIN endpoints e ON e.id = r.endpoint_id
        LEFT JOIN deployments b ON b.id = e.base_deployment_id
        WHERE r.state IN ('pending', 'starting', 'warming', 'ready')
        GROUP BY r.endpoint_id
    )
    SELECT e.id
    FROM endpoints e
    LEFT JOIN alive a ON a.endpoint_id = e.id
    WHERE EXISTS (
              SELECT 1 FROM deployments d
              WHERE d.endpoint_id = e.id
                AND d.status IN ('not_started', 'in_progress', 'rolling_back')
          )
       OR a.strays > 0
       OR (e.deleted_at IS NOT NULL AND a.wanted > 0)
       OR (e.deleted_at IS NULL AND a.wanted > e.replicas)
       OR (e.deleted_at IS NULL AND e.base_deployment_id IS NOT NULL
           AND coalesce(a.wanted, 0) < e.replicas)
    ORDER BY e.id
    """
)

_SHIFT_TIMES = text(
    """
    UPDATE deployments
    SET started_at = started_at + make_interval(secs => :shift_s),
        progress_at = progress_at + make_interval(secs => :shift_s),
        promoted_at = promoted_at + make_interval(secs => :shift_s),
        revision = revision + 1
    WHERE status IN ('in_progress', 'rolling_back')
    """
)

# What every step of a rollout asks or writes is put together once: that costs more than to ask it.
_OPEN_OF = (
    select(*_COLUMNS)
    .where(deployments.c.endpoint_id == bindparam("endpoint"), deployments.c.status.in_(OPEN))
    .order_by(deployments.c.sequence)
)
_LOCK_ENDPOINT = select(endpoints).where(endpoints.c.id == bindparam("endpoint")).with_for_update()
_FIND = select(*_COLUMNS).where(deployments.c.id == bindparam("deployment"))
_FIND_OF_ORG = _FIND.where(deployments.c.org_id == bindparam("org"))
_BASE_OF = select(endpoints.c.base_deployment_id).where(endpoints.c.id == bindparam("endpoint"))
# An UPDATE without values sets the columns that its parameters name.
_SAVE = update(deployments).where(
    deployments.c.id == bindparam("seen_id"),
    deployments.c.revision == bindparam("seen_revision"),
    deployments.c.status == bindparam("seen_status"),
)
_SET_BASE = update(endpoints).where(
    endpoints.c.id == bindparam("seen_id"), endpoints.c.revision == bindparam("seen_revision")
)
_REARM = (
    update(deployments)
    .where(deployments.c.status.in_(ACTIVE))
    .values(progress_at=bindparam("now"), revision=deployments.c.revision + 1)
)
_ENGINE_NOW = (
    select(architectures.c.engine).where(architectures.c.id == bindparam("arch")).scalar_subquery()
)
_ADD = insert(deployments).values(
    **{name: bindparam(name) for name in (*_GIVEN, "sequence")},
    engine=_ENGINE_NOW,
    settings_digest=func.md5(cast(_ENGINE_NOW, Text)),
)
_NOT_WITHDRAWN = select(model_versions.c.id).where(
    model_versions.c.id == bindparam("version"),
    model_versions.c.deleted_at.is_(None),
    model_versions.c.status == "done",
)


@dataclass(frozen=True, slots=True)
class EndpointRow:
    endpoint: Endpoint
    deleted: bool


def _deployment(row: Row[tuple[object, ...]]) -> Deployment:
    """Of a row of `_COLUMNS`."""
    values: list[Any] = list(row)  # as its columns are typed
    values[_STATUS] = RolloutStatus(values[_STATUS])
    return Deployment(*values)


def _all(rows: Iterable[Row[tuple[object, ...]]]) -> list[Deployment]:
    return [_deployment(row) for row in rows]


async def add(tx: Transaction, deployment: Deployment, sequence: int) -> None:
    """Add a row, with the engine settings that its architecture has now."""
    values = {name: getattr(deployment, name) for name in _GIVEN}
    await tx.execute(_ADD, values | {"sequence": sequence, "arch": deployment.arch_id})


async def settings_digest(tx: Transaction, arch_id: str) -> str:
    """What `add` gives a deployment now."""
    query = select(func.md5(cast(architectures.c.engine, Text))).where(
        architectures.c.id == arch_id
    )
    return str((await tx.execute(query)).scalar_one())


async def find(
    tx: Transaction, deployment_id: str, *, org_id: str | None = None
) -> Deployment | None:
    query = _FIND if org_id is None else _FIND_OF_ORG
    rows = await tx.execute(query, {"deployment": deployment_id, "org": org_id})
    return next(iter(_all(rows)), None)


async def open_of(tx: Transaction, endpoint_id: str) -> list[Deployment]:
    """What is not finished on an endpoint, in the order of submission (R1); the active one comes first."""
    return _all(await tx.execute(_OPEN_OF, {"endpoint": endpoint_id}))


async def newest_of(tx: Transaction, endpoint_id: str, limit: int) -> list[Deployment]:
    query = (
        select(*_COLUMNS)
        .where(deployments.c.endpoint_id == endpoint_id)
        .order_by(deployments.c.sequence.desc())
        .limit(limit)
    )
    return _all(await tx.execute(query))


async def sequence_of(tx: Transaction, org_id: str, deployment_id: str) -> int | None:
    query = select(deployments.c.sequence).where(
        deployments.c.id == deployment_id, deployments.c.org_id == org_id
    )
    return (await tx.execute(query)).scalar_one_or_none()


async def newest_of_org(
    tx: Transaction,
    org_id: str,
    *,
    endpoint_id: str | None,
    statuses: Sequence[RolloutStatus],
    before: int | None,
    limit: int,
) -> list[Deployment]:
    """An org's deployments, newest first; those of one endpoint, of some statuses, older than a sequence."""
    query = select(*_COLUMNS).where(deployments.c.org_id == org_id)
    if endpoint_id is not None:
        query = query.where(deployments.c.endpoint_id == endpoint_id)
    if statuses:
        query = query.where(deployments.c.status.in_(statuses))
    if before is not None:
        query = query.where(deployments.c.sequence < before)
    return _all(await tx.execute(query.order_by(deployments.c.sequence.desc()).limit(limit)))


async def done_before(tx: Transaction, base: Deployment) -> Deployment | None:
    """The last deployment that was done on this endpoint with another version than `base`."""
    query = (
        select(*_COLUMNS)
        .where(
            deployments.c.endpoint_id == base.endpoint_id,
            deployments.c.status == RolloutStatus.DONE,
            deployments.c.version_id != base.version_id,
        )
        .order_by(deployments.c.sequence.desc())
        .limit(1)
    )
    return next(iter(_all(await tx.execute(query))), None)


async def save(tx: Transaction, before: Deployment, after: Deployment, now: datetime) -> None:
    """Write what changed; StaleError when somebody else wrote since `before` was read (B0.3)."""
    if after.status is not before.status:
        assert after.status in TRANSITIONS[before.status], (before.status, after.status)
    changed = {
        name: getattr(after, name)
        for name in _NAMES
        if name not in _FIXED and getattr(after, name) != getattr(before, name)
    }
    if not changed:
        return
    seen = {
        "seen_id": before.id,
        "seen_revision": before.revision,
        "seen_status": before.status,
        "updated_at": now,
        "revision": before.revision + 1,
    }
    result = await tx.execute(_SAVE, changed | seen)
    if result.rowcount != 1:
        raise StaleError(f"deployment {before.id} changed since it was read")


async def rearm_progress(tx: Transaction, now: datetime) -> None:
    """Start the progress clocks of the active rollouts anew: time without a controller does not count (B0.5)."""
    await tx.execute(_REARM, {"now": now})


async def shift_times(tx: Transaction, shift: timedelta) -> None:
    """Move the clocks of the active rollouts to those of a controller whose clock shows another time (D6)."""
    await tx.execute(_SHIFT_TIMES, {"shift_s": shift.total_seconds()})


async def set_base(tx: Transaction, endpoint: Endpoint, deployment_id: str, now: datetime) -> None:
    """The deployment that ended `done` is what later rollbacks return to (R12)."""
    values = {
        "seen_id": endpoint.id,
        "seen_revision": endpoint.revision,
        "base_deployment_id": deployment_id,
        "updated_at": now,
        "revision": endpoint.revision + 1,
    }
    result = await tx.execute(_SET_BASE, values)
    if result.rowcount != 1:
        raise StaleError(f"endpoint {endpoint.id} changed since it was read")


async def base_of(tx: Transaction, endpoint_id: str) -> str | None:
    """The id of the deployment that serves an endpoint, if one was ever done."""
    return (await tx.execute(_BASE_OF, {"endpoint": endpoint_id})).scalar_one_or_none()


async def lock_endpoint(tx: Transaction, endpoint_id: str) -> EndpointRow:
    """An endpoint, deleted or not, locked until commit: submissions and the planner take turns."""
    row = (await tx.execute(_LOCK_ENDPOINT, {"endpoint": endpoint_id})).one()
    return EndpointRow(read_endpoint(row), deleted=row.deleted_at is not None)


async def withdrawn(tx: Transaction, deployment: Deployment) -> bool:
    """Whether the version of a deployment can no longer be started: deleted, or not whole any more."""
    rows = await tx.execute(_NOT_WITHDRAWN, {"version": deployment.version_id})
    return rows.one_or_none() is None


async def restless(tx: Transaction) -> Sequence[str]:
    """Endpoints for which a planner could have something to do; one query, however many endpoints there are."""
    rows = await tx.execute(_RESTLESS)
    return rows.scalars().all()
