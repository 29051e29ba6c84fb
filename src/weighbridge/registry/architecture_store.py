"""SQL of model architectures and the orgs that may use them."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime

import msgspec
from sqlalchemy import Row, Select, delete, func, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert

from weighbridge.engines.base import EngineSettings
from weighbridge.registry.model import Architecture
from weighbridge.storage.database import Transaction
from weighbridge.storage.tables import architecture_orgs, architectures, endpoints
from weighbridge.weights.tensors import TensorSpec

_org_list = func.array(
    select(architecture_orgs.c.org_id)
    .where(architecture_orgs.c.arch_id == architectures.c.id)
    .correlate(architectures)
    .scalar_subquery()
).label("org_ids")


def _architectures() -> Select[tuple[object, ...]]:
    return select(*architectures.c, _org_list).where(architectures.c.deleted_at.is_(None))


def _architecture(row: Row[tuple[object, ...]]) -> Architecture:
    return Architecture(
        id=row.id,
        source_uri=row.source_uri,
        base_digest=row.base_digest,
        tensors=tuple(TensorSpec(name, dtype, tuple(shape)) for name, dtype, shape in row.tensors),
        engine=msgspec.convert(row.engine, EngineSettings),
        org_ids=frozenset(row.org_ids),
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


async def find(tx: Transaction, arch_id: str, *, lock: bool = False) -> Architecture | None:
    """`lock` keeps it registered until commit."""
    query = _architectures().where(architectures.c.id == arch_id)
    if lock:
        query = query.with_for_update(of=architectures, read=True)
    row = (await tx.execute(query)).one_or_none()
    return None if row is None else _architecture(row)


async def architectures_of(tx: Transaction, org_id: str | None) -> Sequence[Architecture]:
    """By id; those an org may use, or all."""
    query = _architectures().order_by(architectures.c.id)
    if org_id is not None:
        listed = select(architecture_orgs.c.org_id).where(
            architecture_orgs.c.arch_id == architectures.c.id
        )
        query = query.where(
            or_(~listed.exists(), listed.where(architecture_orgs.c.org_id == org_id).exists())
        )
    return [_architecture(row) for row in await tx.execute(query)]


async def save(tx: Transaction, architecture: Architecture) -> None:
    """Insert it, or put it in the place of the one with its id, deleted or not."""
    values = {
        "source_uri": architecture.source_uri,
        "base_digest": architecture.base_digest,
        "tensors": [[spec.name, spec.dtype, list(spec.shape)] for spec in architecture.tensors],
        "engine": asdict(architecture.engine),
        "created_at": architecture.created_at,
        "updated_at": architecture.updated_at,
        "deleted_at": None,
    }
    await tx.execute(
        insert(architectures)
        .values(id=architecture.id, **values)
        .on_conflict_do_update(index_elements=["id"], set_=values)
    )
    await tx.execute(
        delete(architecture_orgs).where(architecture_orgs.c.arch_id == architecture.id)
    )
    if architecture.org_ids:
        await tx.execute(
            insert(architecture_orgs),
            [
                {"arch_id": architecture.id, "org_id": org_id}
                for org_id in sorted(architecture.org_ids)
            ],
        )


async def lock(tx: Transaction, arch_id: str) -> None:
    """Until commit nobody registers it, changes it, uploads to it or binds an endpoint to it."""
    # The advisory lock holds off a second registration while there is no row to lock yet.
    await tx.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended(:id, 0))"), {"id": arch_id}
    )
    await tx.execute(
        select(architectures.c.id).where(architectures.c.id == arch_id).with_for_update()
    )


async def endpoints_of(tx: Transaction, arch_id: str) -> Sequence[str]:
    query = (
        select(endpoints.c.id)
        .where(endpoints.c.arch_id == arch_id, endpoints.c.deleted_at.is_(None))
        .order_by(endpoints.c.id)
    )
    return [row.id for row in await tx.execute(query)]


async def bury(tx: Transaction, arch_id: str, now: datetime) -> None:
    await tx.execute(
        update(architectures)
        .where(architectures.c.id == arch_id, architectures.c.deleted_at.is_(None))
        .values(deleted_at=now, updated_at=now)
    )
