"""SQL of model versions."""

from collections.abc import Sequence
from datetime import datetime
from functools import cache

from sqlalchemy import BindParameter, Row, Select, bindparam, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from weighbridge.errors import StaleError
from weighbridge.registry.model import ModelVersion, SyncStatus
from weighbridge.storage.database import Transaction
from weighbridge.storage.tables import (
    REPLICA_FINAL,
    ROLLOUT_FINAL,
    aliases,
    counters,
    deployments,
    endpoints,
    model_versions,
    replicas,
    version_counters,
)

NUMBERS_FLOOR = "version_numbers.floor"
"""The counter above which all version numbers are given (V1)."""

_alias_list = func.array(
    select(aliases.c.alias)
    .where(aliases.c.version_id == model_versions.c.id)
    .order_by(aliases.c.position)
    .correlate(model_versions)
    .scalar_subquery()
).label("aliases")


def _versions() -> Select[tuple[object, ...]]:
    return select(*model_versions.c, _alias_list)


def _version(row: Row[tuple[object, ...]]) -> ModelVersion:
    return ModelVersion(
        id=row.id,
        org_id=row.org_id,
        arch_id=row.arch_id,
        number=row.number,
        weight_uri=row.weight_uri,
        fingerprint_suffix=row.fingerprint_suffix,
        aliases=tuple(row.aliases),
        status=SyncStatus(row.status),
        step=row.step,
        error_code=row.error_code,
        error_message=row.error_message,
        manifest_digest=row.manifest_digest,
        bytes_total=row.bytes_total,
        bytes_done=row.bytes_done,
        files_total=row.files_total,
        files_done=row.files_done,
        created_at=row.created_at,
        updated_at=row.updated_at,
        revision=row.revision,
        bytes_per_s=row.bytes_per_s,
        retries=row.retries,
    )


async def next_number(tx: Transaction, org_id: str, arch_id: str) -> int:
    """The next version number (V1, V2); the counter stays locked until commit, so no two callers share it.

    It is above the floor that a restore of a backup has set: what was given after the backup is not known.
    """
    floor = select(counters.c.value).where(counters.c.name == NUMBERS_FLOOR).scalar_subquery()
    last = func.greatest(version_counters.c.last, func.coalesce(floor, 0))
    result = await tx.execute(
        insert(version_counters)
        .values(org_id=org_id, arch_id=arch_id, last=func.coalesce(floor, 0) + 1)
        .on_conflict_do_update(index_elements=["org_id", "arch_id"], set_={"last": last + 1})
        .returning(version_counters.c.last)
    )
    return int(result.scalar_one())


async def lock_counter(tx: Transaction, org_id: str, arch_id: str) -> None:
    """Until commit nobody else gives out numbers or aliases of this org and architecture."""
    await tx.execute(
        select(version_counters.c.last)
        .where(version_counters.c.org_id == org_id, version_counters.c.arch_id == arch_id)
        .with_for_update()
    )


async def insert_version(tx: Transaction, version: ModelVersion) -> None:
    await tx.execute(
        insert(model_versions).values(
            id=version.id,
            org_id=version.org_id,
            arch_id=version.arch_id,
            number=version.number,
            weight_uri=version.weight_uri,
            fingerprint_suffix=version.fingerprint_suffix,
            status=version.status.value,
            created_at=version.created_at,
            updated_at=version.updated_at,
        )
    )


@cache
def _one(*, by_number: bool, lock: bool) -> Select[tuple[object, ...]]:
    """Put together once: every request that names a version asks it."""
    org: BindParameter[str] = bindparam("org")
    arch: BindParameter[str] = bindparam("arch")
    ref: BindParameter[int | str] = bindparam("ref")
    query = _versions().where(
        model_versions.c.org_id == org,
        model_versions.c.arch_id == arch,
        model_versions.c.deleted_at.is_(None),
    )
    if by_number:
        query = query.where(model_versions.c.number == ref)
    else:
        held = select(aliases.c.version_id).where(
            aliases.c.org_id == org, aliases.c.arch_id == arch, aliases.c.alias == ref
        )
        query = query.where(model_versions.c.id == held.scalar_subquery())
    return query.with_for_update(of=model_versions, key_share=True) if lock else query


async def find(
    tx: Transaction, org_id: str, arch_id: str, ref: int | str, *, lock: bool = False
) -> ModelVersion | None:
    """A version that is not deleted, by number or alias; `lock` keeps it unchanged until commit."""
    query = _one(by_number=isinstance(ref, int), lock=lock)
    row = (await tx.execute(query, {"org": org_id, "arch": arch_id, "ref": ref})).one_or_none()
    return None if row is None else _version(row)


async def versions(tx: Transaction, org_id: str, arch_id: str) -> Sequence[ModelVersion]:
    """Ascending by number, without the deleted."""
    query = (
        _versions()
        .where(
            model_versions.c.org_id == org_id,
            model_versions.c.arch_id == arch_id,
            model_versions.c.deleted_at.is_(None),
        )
        .order_by(model_versions.c.number)
    )
    return [_version(row) for row in await tx.execute(query)]


async def lock_endpoints(tx: Transaction, org_id: str, arch_id: str) -> None:
    """Until commit no deployment starts on an endpoint that could take versions of this architecture (V6)."""
    await tx.execute(
        select(endpoints.c.id)
        .where(endpoints.c.org_id == org_id, endpoints.c.arch_id == arch_id)
        .order_by(endpoints.c.id)
        .with_for_update()
    )


async def uses(tx: Transaction, version_id: str) -> Sequence[str]:
    """Who needs a version (V6), each as a phrase for a message; empty when it may be deleted."""
    running = (
        select(replicas.c.endpoint_id)
        .where(replicas.c.version_id == version_id, replicas.c.state.not_in(REPLICA_FINAL))
        .distinct()
        .order_by(replicas.c.endpoint_id)
    )
    wanted = (
        select(deployments.c.id, deployments.c.endpoint_id)
        .where(deployments.c.version_id == version_id, deployments.c.status.not_in(ROLLOUT_FINAL))
        .order_by(deployments.c.sequence)
    )
    last_good = (
        select(endpoints.c.id)
        .join(deployments, deployments.c.id == endpoints.c.base_deployment_id)
        .where(deployments.c.version_id == version_id, endpoints.c.deleted_at.is_(None))
        .order_by(endpoints.c.id)
    )
    return [
        *[f"replicas of endpoint {row.endpoint_id} run it" for row in await tx.execute(running)],
        *[
            f"deployment {row.id} takes it to endpoint {row.endpoint_id}"
            for row in await tx.execute(wanted)
        ],
        *[
            f"it is the last good version of endpoint {row.id}"
            for row in await tx.execute(last_good)
        ],
    ]


async def bury(tx: Transaction, version: ModelVersion, now: datetime) -> None:
    """Tombstone (V7); guarded by the revision."""
    result = await tx.execute(
        update(model_versions)
        .where(model_versions.c.id == version.id, model_versions.c.revision == version.revision)
        .values(
            deleted_at=now,
            updated_at=now,
            cancel_requested=True,
            revision=model_versions.c.revision + 1,
        )
    )
    if result.rowcount != 1:
        raise StaleError(f"version {version.id} is no longer at revision {version.revision}")


async def has_versions(tx: Transaction, arch_id: str) -> bool:
    """Whether there is a version that is not deleted, or a deleted one whose sync has not ended."""
    query = select(model_versions.c.id).where(
        model_versions.c.arch_id == arch_id,
        or_(
            model_versions.c.deleted_at.is_(None),
            model_versions.c.status.in_([s.value for s in SyncStatus if not s.final]),
        ),
    )
    return (await tx.execute(query.limit(1))).one_or_none() is not None
