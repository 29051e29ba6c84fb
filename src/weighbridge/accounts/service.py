"""What callers may ask of orgs and API keys."""

import hmac
from collections.abc import Callable, Sequence
from datetime import datetime

from weighbridge.accounts import store
from weighbridge.accounts.keys import key_prefix, key_text, parse_key
from weighbridge.accounts.model import ApiKey, KeyKind, Org
from weighbridge.accounts.names import (
    check_key_name,
    check_org_name,
    check_role_arn,
    is_org_name,
    quoted,
)
from weighbridge.errors import ConflictError, InvalidError, NotFoundError, UnauthenticatedError
from weighbridge.routing.limits import UsageLimits, with_defaults
from weighbridge.routing.model import KeyEntry
from weighbridge.routing.tokens import key_digest
from weighbridge.storage.database import Transaction

FIRST_KEY_NAME = "first admin key"


async def create_org(
    tx: Transaction,
    name: str,
    *,
    s3_role_arn: str | None = None,
    org_id: str,
    s3_external_id: str,
    now: datetime,
) -> Org:
    """`s3_external_id` is ours, random and fixed: the org puts it in its role's trust policy (T7)."""
    if s3_role_arn is not None:
        check_role_arn(s3_role_arn)
    org = Org(org_id, check_org_name(name), s3_external_id, s3_role_arn, now)
    if not await store.insert_org(tx, org):
        raise ConflictError(
            f"Organization {quoted(name)} exists already.", code="org_exists", param="org_name"
        )
    return org


async def orgs(tx: Transaction) -> Sequence[Org]:
    return await store.orgs_by_name(tx)


async def org_by_name(tx: Transaction, name: str) -> Org:
    org = await store.org_by_name(tx, name) if is_org_name(name) else None
    if org is None:
        raise org_not_found(name)
    return org


async def org_by_id(tx: Transaction, org_id: str) -> Org:
    org = await store.org_by_id(tx, org_id)
    if org is None:
        raise org_not_found(org_id)
    return org


def org_not_found(name: str) -> NotFoundError:
    """The one answer for an org that is absent and for one that is somebody else's (T2)."""
    return NotFoundError(
        f"Organization {quoted(name)} does not exist or you do not have access to it.",
        code="org_not_found",
        param="org_name",
    )


async def set_s3_role(tx: Transaction, name: str, s3_role_arn: str | None) -> Org:
    org = await org_by_name(tx, name)
    if s3_role_arn is not None:
        check_role_arn(s3_role_arn)
    await store.set_role(tx, org.id, s3_role_arn)
    return await org_by_id(tx, org.id)


async def change_key_defaults(
    tx: Transaction, name: str, change: Callable[[UsageLimits], UsageLimits]
) -> Org:
    """Set the limits that hold for each key of the org which has none of its own."""
    org = await org_by_name(tx, name)
    await store.set_key_defaults(tx, org.id, change(org.key_limits))
    return await org_by_id(tx, org.id)


async def create_key(
    tx: Transaction,
    *,
    kind: KeyKind,
    org_id: str | None,
    name: str,
    expires_at: datetime | None = None,
    pepper: bytes,
    key_id: str,
    secret: str,
    now: datetime,
) -> tuple[ApiKey, str]:
    """The key and its text, which nobody can ask for again (T3)."""
    if (kind is KeyKind.ADMIN) != (org_id is None):
        raise InvalidError(
            "An admin key belongs to no organization; every other key needs org_name.",
            code="invalid_key_owner",
            param="org_name",
        )
    if expires_at is not None and expires_at <= now:
        raise InvalidError(
            "A key must expire in the future.", code="invalid_expiry", param="expires_in_s"
        )
    text = key_text(kind, key_id, secret)
    key = ApiKey(
        id=key_id,
        org_id=org_id,
        kind=kind,
        name=check_key_name(name),
        prefix=key_prefix(kind, key_id),
        created_at=now,
        expires_at=expires_at,
        revoked_at=None,
    )
    await store.insert_key(tx, key, key_digest(pepper, text))
    return key, text


async def ensure_admin_key(
    tx: Transaction, *, pepper: bytes, key_id: str, secret: str, now: datetime
) -> str | None:
    """At the first start: make the first admin key and return its text. None when there ever was one."""
    await store.lock_admin_keys(tx)
    if await store.count_admin_keys(tx):
        return None
    _, text = await create_key(
        tx,
        kind=KeyKind.ADMIN,
        org_id=None,
        name=FIRST_KEY_NAME,
        pepper=pepper,
        key_id=key_id,
        secret=secret,
        now=now,
    )
    return text


async def keys(tx: Transaction, org_id: str | None) -> Sequence[ApiKey]:
    """Newest first, revoked ones too; of one org, or every key."""
    return await store.keys(tx, org_id)


async def revoke(tx: Transaction, key_id: str, *, now: datetime) -> ApiKey:
    """Stop a key for good; a second revocation changes nothing. The last working admin key is kept."""
    await store.lock_admin_keys(tx)
    found = await store.key_with_digest(tx, key_id) if _is_key_id(key_id) else None
    if found is None:
        raise NotFoundError(f"Key {quoted(key_id)} does not exist.", code="key_not_found")
    if await store.working_admin_keys(tx, now) == [key_id]:
        raise ConflictError(
            f"Key {key_id} is the last working admin key; create another one first.",
            code="last_admin_key",
        )
    await store.revoke_key(tx, key_id, now)
    after = await store.key_with_digest(tx, key_id)
    assert after is not None
    return after[0]


async def change_limits(
    tx: Transaction, key_id: str, change: Callable[[UsageLimits], UsageLimits]
) -> ApiKey:
    """Set a key's own limits; InvalidError for a key that infers nothing."""
    key = await store.key_by_id(tx, key_id, lock=True) if _is_key_id(key_id) else None
    if key is None:
        raise NotFoundError(f"Key {quoted(key_id)} does not exist.", code="key_not_found")
    if not key.kind.infers:
        raise InvalidError(
            f"Key {key_id} is of kind {key.kind.value}; only keys for inference have limits.",
            code="invalid_key_kind",
            param="limits",
        )
    await store.set_limits(tx, key_id, change(key.limits))
    after = await store.key_by_id(tx, key_id)
    assert after is not None
    return after


def _is_key_id(key_id: str) -> bool:
    return key_id.isascii() and key_id.isalnum()


async def authenticate(tx: Transaction, pepper: bytes, text: str, now: datetime) -> ApiKey:
    """The live key behind a key's text; every reason to refuse looks the same to the caller."""
    parsed = parse_key(text)
    if parsed is not None:
        found = await store.key_with_digest(tx, parsed.key_id)
        digest = key_digest(pepper, text)
        if found is not None and hmac.compare_digest(found[1], digest):
            key = found[0]
            expired = key.expires_at is not None and key.expires_at <= now
            if key.revoked_at is None and not expired:
                return key
    raise wrong_key()


def wrong_key() -> UnauthenticatedError:
    return UnauthenticatedError("Wrong API Key", param="api_key")


async def key_table(tx: Transaction, now: datetime) -> tuple[KeyEntry, ...]:
    """The live inference-capable keys, as the gateways need them, in a stable order."""
    defaults = {org.id: org.key_limits for org in await store.orgs_by_name(tx)}
    return tuple(
        KeyEntry(
            digest=digest.hex(),
            key_id=key.id,
            org_id=key.org_id or "",
            expires_unix_s=None if key.expires_at is None else key.expires_at.timestamp(),
            limits=with_defaults(key.limits, defaults[key.org_id or ""]),
        )
        for key, digest in await store.live_inference_digests(tx, now)
    )
