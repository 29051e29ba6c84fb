"""SQL of endpoints."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache

from sqlalchemy import Row, Select, bindparam, select, update
from sqlalchemy.dialects.postgresql import insert

from weighbridge.endpoints.gate import gate_document, read_gate
from weighbridge.endpoints.model import Endpoint, QueuePolicy
from weighbridge.errors import StaleError
from weighbridge.routing.limits import limits_document, read_limits
from weighbridge.routing.options import options_document, read_options
from weighbridge.storage.database import Transaction
from weighbridge.storage.tables import ROLLOUT_FINAL, deployments, endpoints


def read_endpoint(row: Row[tuple[object, ...]]) -> Endpoint:
    return Endpoint(
        id=row.id,
        org_id=row.org_id,
        arch_id=row.arch_id,
        replicas=row.replicas,
        max_unavailable=row.max_unavailable,
        max_surge=row.max_surge,
        base_deployment_id=row.base_deployment_id,
        created_at=row.created_at,
        updated_at=row.updated_at,
        revision=row.revision,
        limits=read_limits(row.limits),
        gateway=read_options(row.gateway),
        gate=read_gate(row.gate),
        replicas_max=row.replicas_max,
        allow_downtime=row.allow_downtime,
        queue_policy=QueuePolicy(row.queue_policy),
    )


async def insert_endpoint(tx: Transaction, endpoint: Endpoint) -> bool:
    """False when the id is taken, by a deleted endpoint too."""
    result = await tx.execute(
        insert(endpoints)
        .values(
            id=endpoint.id,
            org_id=endpoint.org_id,
            arch_id=endpoint.arch_id,
            replicas=endpoint.replicas,
            max_unavailable=endpoint.max_unavailable,
            max_surge=endpoint.max_surge,
            replicas_max=endpoint.replicas_max,
            allow_downtime=endpoint.allow_downtime,
            queue_policy=endpoint.queue_policy,
            created_at=endpoint.created_at,
            updated_at=endpoint.updated_at,
        )
        .on_conflict_do_nothing(index_elements=["id"])
        .returning(endpoints.c.id)
    )
    return result.one_or_none() is not None


@cache
def _one(*, of_org: bool, lock: bool) -> Select[tuple[object, ...]]:
    """Put together once: every request that names an endpoint asks it."""
    query = select(endpoints).where(
        endpoints.c.id == bindparam("endpoint"), endpoints.c.deleted_at.is_(None)
    )
    if of_org:
        query = query.where(endpoints.c.org_id == bindparam("org"))
    return query.with_for_update() if lock else query


async def find(
    tx: Transaction, endpoint_id: str, *, org_id: str | None, lock: bool = False
) -> Endpoint | None:
    """Without `org_id`, of any org; `lock` keeps it unchanged until commit."""
    query = _one(of_org=org_id is not None, lock=lock)
    row = (await tx.execute(query, {"endpoint": endpoint_id, "org": org_id})).one_or_none()
    return None if row is None else read_endpoint(row)


async def endpoints_of(tx: Transaction, org_id: str | None) -> Sequence[Endpoint]:
    """By id; of one org, or all."""
    query = select(endpoints).where(endpoints.c.deleted_at.is_(None)).order_by(endpoints.c.id)
    if org_id is not None:
        query = query.where(endpoints.c.org_id == org_id)
    return [read_endpoint(row) for row in await tx.execute(query)]


async def save_shape(tx: Transaction, endpoint: Endpoint) -> None:
    """Write what `service.update` changes; guarded by the revision."""
    await _guarded(
        tx,
        endpoint,
        {
            "replicas": endpoint.replicas,
            "max_unavailable": endpoint.max_unavailable,
            "max_surge": endpoint.max_surge,
            "replicas_max": endpoint.replicas_max,
            "allow_downtime": endpoint.allow_downtime,
            "queue_policy": endpoint.queue_policy,
            "limits": limits_document(endpoint.limits),
            "gateway": options_document(endpoint.gateway),
            "gate": gate_document(endpoint.gate),
            "updated_at": endpoint.updated_at,
        },
    )


async def bury(tx: Transaction, endpoint: Endpoint, now: datetime) -> None:
    """Tombstone: its id is never given out again; guarded by the revision."""
    await _guarded(tx, endpoint, {"deleted_at": now, "updated_at": now})


async def _guarded(tx: Transaction, endpoint: Endpoint, values: Mapping[str, object]) -> None:
    result = await tx.execute(
        update(endpoints)
        .where(
            endpoints.c.id == endpoint.id,
            endpoints.c.revision == endpoint.revision,
            endpoints.c.deleted_at.is_(None),
        )
        .values(**values, revision=endpoints.c.revision + 1)
    )
    if result.rowcount != 1:
        raise StaleError(f"endpoint {endpoint.id} is no longer at revision {endpoint.revision}")


async def open_deployment(tx: Transaction, endpoint_id: str) -> str | None:
    """The oldest deployment of an endpoint that has not ended."""
    query = (
        select(deployments.c.id)
        .where(
            deployments.c.endpoint_id == endpoint_id,
            deployments.c.status.not_in(ROLLOUT_FINAL),
        )
        .order_by(deployments.c.sequence)
        .limit(1)
    )
    return (await tx.execute(query)).scalar_one_or_none()


async def active_deployment(tx: Transaction, endpoint_id: str) -> tuple[str, int] | None:
    """The deployment that is being rolled out on an endpoint, and to how many replicas."""
    query = select(deployments.c.id, deployments.c.replicas).where(
        deployments.c.endpoint_id == endpoint_id,
        deployments.c.status.in_(("in_progress", "rolling_back")),
    )
    row = (await tx.execute(query)).one_or_none()
    return None if row is None else (row.id, row.replicas)


async def base_versions(tx: Transaction, endpoint_ids: Sequence[str]) -> Mapping[str, int]:
    """The number of the last good version of each endpoint that has one."""
    query = (
        select(endpoints.c.id, deployments.c.version_number)
        .join(deployments, deployments.c.id == endpoints.c.base_deployment_id)
        .where(endpoints.c.id.in_(endpoint_ids))
    )
    return {row.id: row.version_number for row in await tx.execute(query)}
