"""SQL of orgs and API keys."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Row, bindparam, func, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert

from weighbridge.accounts.model import ApiKey, KeyKind, Org
from weighbridge.routing.limits import UsageLimits, limits_document, read_limits
from weighbridge.storage.database import Transaction
from weighbridge.storage.tables import api_keys, orgs

_ADMIN_LOCK = 0x57624B31  # any constant: names the advisory lock of the set of admin keys


def _org(row: Row[tuple[object, ...]]) -> Org:
    return Org(
        id=row.id,
        name=row.name,
        s3_external_id=row.s3_external_id,
        s3_role_arn=row.s3_role_arn,
        created_at=row.created_at,
        key_limits=read_limits(row.key_limits),
    )


def _key(row: Row[tuple[object, ...]]) -> ApiKey:
    return ApiKey(
        id=row.id,
        org_id=row.org_id,
        kind=KeyKind(row.kind),
        name=row.name,
        prefix=row.prefix,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        limits=read_limits(row.limits),
    )


# Asked whenever the gateways' tables are made, so put together once.
_ORGS = select(orgs).order_by(orgs.c.name)
_LIVE_INFERENCE = (
    select(api_keys)
    .where(
        api_keys.c.kind.in_([kind.value for kind in KeyKind if kind.infers]),
        api_keys.c.revoked_at.is_(None),
        or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > bindparam("now")),
    )
    .order_by(api_keys.c.id)
)


# Asked with each call of the API.
_ORG = select(orgs).where(orgs.c.id == bindparam("org"))
_KEY = select(api_keys).where(api_keys.c.id == bindparam("key"))


async def insert_org(tx: Transaction, org: Org) -> bool:
    """False when the name is taken."""
    result = await tx.execute(
        insert(orgs)
        .values(
            id=org.id,
            name=org.name,
            s3_external_id=org.s3_external_id,
            s3_role_arn=org.s3_role_arn,
            created_at=org.created_at,
        )
        .on_conflict_do_nothing(index_elements=["name"])
        .returning(orgs.c.id)
    )
    return result.one_or_none() is not None


async def orgs_by_name(tx: Transaction) -> Sequence[Org]:
    return [_org(row) for row in await tx.execute(_ORGS)]


async def org_by_name(tx: Transaction, name: str) -> Org | None:
    row = (await tx.execute(select(orgs).where(orgs.c.name == name))).one_or_none()
    return None if row is None else _org(row)


async def org_by_id(tx: Transaction, org_id: str) -> Org | None:
    row = (await tx.execute(_ORG, {"org": org_id})).one_or_none()
    return None if row is None else _org(row)


async def set_role(tx: Transaction, org_id: str, role_arn: str | None) -> None:
    await tx.execute(update(orgs).where(orgs.c.id == org_id).values(s3_role_arn=role_arn))


async def set_key_defaults(tx: Transaction, org_id: str, limits: UsageLimits) -> None:
    document = limits_document(limits)
    await tx.execute(update(orgs).where(orgs.c.id == org_id).values(key_limits=document))


async def set_limits(tx: Transaction, key_id: str, limits: UsageLimits) -> None:
    document = limits_document(limits)
    await tx.execute(update(api_keys).where(api_keys.c.id == key_id).values(limits=document))


async def insert_key(tx: Transaction, key: ApiKey, digest: bytes) -> None:
    await tx.execute(
        insert(api_keys).values(
            id=key.id,
            org_id=key.org_id,
            kind=key.kind.value,
            name=key.name,
            prefix=key.prefix,
            digest=digest,
            created_at=key.created_at,
            expires_at=key.expires_at,
        )
    )


async def key_with_digest(tx: Transaction, key_id: str) -> tuple[ApiKey, bytes] | None:
    row = (await tx.execute(_KEY, {"key": key_id})).one_or_none()
    return None if row is None else (_key(row), bytes(row.digest))


async def key_by_id(tx: Transaction, key_id: str, *, lock: bool = False) -> ApiKey | None:
    """`lock` keeps it unchanged until commit."""
    query = select(api_keys).where(api_keys.c.id == key_id)
    row = (await tx.execute(query.with_for_update() if lock else query)).one_or_none()
    return None if row is None else _key(row)


async def keys(tx: Transaction, org_id: str | None) -> Sequence[ApiKey]:
    """Newest first; of one org, or all."""
    query = select(api_keys).order_by(api_keys.c.created_at.desc(), api_keys.c.id)
    if org_id is not None:
        query = query.where(api_keys.c.org_id == org_id)
    return [_key(row) for row in await tx.execute(query)]


async def revoke_key(tx: Transaction, key_id: str, now: datetime) -> None:
    """The first revocation keeps its time."""
    await tx.execute(
        update(api_keys)
        .where(api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None))
        .values(revoked_at=now)
    )


async def lock_admin_keys(tx: Transaction) -> None:
    """Until commit nobody else adds the first or revokes the last admin key."""
    await tx.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADMIN_LOCK})


async def working_admin_keys(tx: Transaction, now: datetime) -> Sequence[str]:
    """Ids of the admin keys that work at `now`."""
    query = select(api_keys.c.id).where(
        api_keys.c.kind == KeyKind.ADMIN.value,
        api_keys.c.revoked_at.is_(None),
        or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > now),
    )
    return [row.id for row in await tx.execute(query)]


async def count_admin_keys(tx: Transaction) -> int:
    """Every admin key there ever was."""
    query = select(func.count()).select_from(api_keys).where(api_keys.c.kind == "admin")
    return int((await tx.execute(query)).scalar_one())


async def live_inference_digests(tx: Transaction, now: datetime) -> Sequence[tuple[ApiKey, bytes]]:
    rows = await tx.execute(_LIVE_INFERENCE, {"now": now})
    return [(_key(row), bytes(row.digest)) for row in rows]
