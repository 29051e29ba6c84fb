"""SQL of acceptance probes: the sets of architectures and endpoints, and what a replica was started with."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import msgspec
from sqlalchemy import ColumnElement, and_, bindparam, delete, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from weighbridge.acceptance.model import Probe
from weighbridge.storage.database import Transaction
from weighbridge.storage.tables import acceptance_probes, deployments, endpoints, replicas


class Scope(StrEnum):
    ARCHITECTURE = "architecture"
    ENDPOINT = "endpoint"


@dataclass(frozen=True, slots=True)
class ProbeSet:
    probes: Sequence[Probe]
    updated_at: datetime | None


@dataclass(frozen=True, slots=True)
class Serving:
    """A ready replica that can be asked."""

    replica_id: str
    url: str
    digest: str
    version_number: int


# Asked for each replica that starts, so put together once.
_OF_ENDPOINT = (
    select(acceptance_probes.c.scope, acceptance_probes.c.probes)
    .join(endpoints, endpoints.c.id == bindparam("endpoint"))
    .where(
        or_(
            and_(
                acceptance_probes.c.scope == Scope.ARCHITECTURE,
                acceptance_probes.c.owner_id == endpoints.c.arch_id,
            ),
            and_(
                acceptance_probes.c.scope == Scope.ENDPOINT,
                acceptance_probes.c.owner_id == bindparam("endpoint"),
            ),
        )
    )
    .order_by(acceptance_probes.c.scope)
)


def _probes(value: object) -> tuple[Probe, ...]:
    return msgspec.convert(value or [], tuple[Probe, ...])


async def find(tx: Transaction, scope: Scope, owner_id: str) -> ProbeSet:
    query = select(acceptance_probes).where(
        acceptance_probes.c.scope == scope, acceptance_probes.c.owner_id == owner_id
    )
    row = (await tx.execute(query)).one_or_none()
    return ProbeSet((), None) if row is None else ProbeSet(_probes(row.probes), row.updated_at)


async def replace(
    tx: Transaction, scope: Scope, owner_id: str, probes: Sequence[Probe], now: datetime
) -> None:
    values = {"probes": msgspec.to_builtins(list(probes)), "updated_at": now}
    await tx.execute(
        insert(acceptance_probes)
        .values(scope=scope, owner_id=owner_id, **values)
        .on_conflict_do_update(index_elements=["scope", "owner_id"], set_=values)
    )


async def clear(tx: Transaction, scope: Scope, owner_id: str) -> None:
    """Its owner is gone: another of the same id begins without."""
    await tx.execute(
        delete(acceptance_probes).where(
            acceptance_probes.c.scope == scope, acceptance_probes.c.owner_id == owner_id
        )
    )


async def of_endpoint(tx: Transaction, endpoint_id: str) -> list[Probe]:
    """Those of its architecture and its own; its own take the place of the architecture's of the same name."""
    by_name: dict[str, Probe] = {}
    for row in await tx.execute(_OF_ENDPOINT, {"endpoint": endpoint_id}):
        by_name |= {probe.name: probe for probe in _probes(row.probes)}
    return list(by_name.values())


async def pin(tx: Transaction, endpoint_id: str, replica_ids: Sequence[str]) -> None:
    """Give new replicas the probes of now; what is changed later is for replicas started later."""
    probes = await of_endpoint(tx, endpoint_id) if replica_ids else []
    if probes:
        await tx.execute(
            update(replicas)
            .where(replicas.c.id.in_(replica_ids))
            .values(probes=msgspec.to_builtins(probes))
        )


async def pinned(tx: Transaction, replica_id: str) -> tuple[Probe, ...]:
    query = select(replicas.c.probes).where(replicas.c.id == replica_id)
    return _probes((await tx.execute(query)).scalar_one_or_none())


async def serving_base(tx: Transaction, endpoint_id: str, *, but: str | None) -> Serving | None:
    """A ready replica of the endpoint's base version, the longest ready first."""
    from_base = select(endpoints.c.base_deployment_id).where(endpoints.c.id == endpoint_id)
    base_version = (
        select(deployments.c.version_id)
        .where(deployments.c.id == from_base.scalar_subquery())
        .scalar_subquery()
    )
    return await _serving(
        tx,
        replicas.c.endpoint_id == endpoint_id,
        replicas.c.version_id == base_version,
        *([] if but is None else [replicas.c.id != but]),
    )


async def serving(tx: Transaction, endpoint_id: str) -> Serving | None:
    """Any ready replica of the endpoint, the longest ready first."""
    return await _serving(tx, replicas.c.endpoint_id == endpoint_id)


async def _serving(tx: Transaction, *where: ColumnElement[bool]) -> Serving | None:
    query = (
        select(replicas.c.id, replicas.c.url, replicas.c.digest, replicas.c.version_number)
        .where(*where, replicas.c.state == "ready", replicas.c.url.is_not(None))
        .order_by(replicas.c.ready_at, replicas.c.id)
        .limit(1)
    )
    row = (await tx.execute(query)).one_or_none()
    return None if row is None else Serving(*row)
