"""Admin routes of API keys."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Self

from fastapi import Query
from pydantic import Field

from weighbridge.accounts import service
from weighbridge.accounts.model import ApiKey, KeyKind
from weighbridge.api.admin.limits import LimitsAnswer, LimitsChange
from weighbridge.api.admin.router import Body, admin_router
from weighbridge.api.answers import Answer, unix_s
from weighbridge.api.deps import Control
from weighbridge.storage.database import Transaction

EXPIRY_MAX_S = 10 * 366 * 24 * 3600

router = admin_router()


class KeyRequest(Body):
    kind: Annotated[KeyKind, Field(strict=False)]
    org_name: str | None = None
    name: str
    expires_in_s: int | None = Field(default=None, ge=1, le=EXPIRY_MAX_S)


class KeyChange(Body):
    limits: LimitsChange


class KeyAnswer(Answer):
    id: str
    kind: KeyKind
    org_name: str | None
    name: str
    prefix: str
    created: int
    expires: int | None
    revoked: int | None
    limits: LimitsAnswer = Field(
        description="Its own; where null, the organization's default counts."
    )

    @classmethod
    def of(cls, key: ApiKey, org_names: Mapping[str, str]) -> Self:
        return cls(
            id=key.id,
            kind=key.kind,
            org_name=None if key.org_id is None else org_names[key.org_id],
            name=key.name,
            prefix=key.prefix,
            created=unix_s(key.created_at),
            expires=None if key.expires_at is None else unix_s(key.expires_at),
            revoked=None if key.revoked_at is None else unix_s(key.revoked_at),
            limits=LimitsAnswer.of(key.limits),
        )


class NewKey(KeyAnswer):
    key: str = Field(description="The key itself; it is shown here and never again.")


class Keys(Answer):
    keys: list[KeyAnswer]


async def _org_names(tx: Transaction) -> Mapping[str, str]:
    return {org.id: org.name for org in await service.orgs(tx)}


@router.post("/keys", operation_id="create_key")
async def create(body: KeyRequest, control: Control) -> NewKey:
    """Create a key of an organization, or an admin key; the answer is the only one that holds it."""
    now = control.clock.now()
    lifetime = None if body.expires_in_s is None else timedelta(seconds=body.expires_in_s)
    async with control.database.begin() as tx:
        org = None if body.org_name is None else await service.org_by_name(tx, body.org_name)
        key, text = await service.create_key(
            tx,
            kind=body.kind,
            org_id=None if org is None else org.id,
            name=body.name,
            expires_at=None if lifetime is None else now + lifetime,
            pepper=control.pepper,
            key_id=control.clock.new_short_id(),
            secret=control.clock.new_secret(),
            now=now,
        )
    control.wake("routes")
    shown = KeyAnswer.of(key, {} if org is None else {org.id: org.name})
    return NewKey(**shown.model_dump(), key=text)


@router.get("/keys", operation_id="list_keys")
async def list_all(
    control: Control, org_name: Annotated[str | None, Query(max_length=100)] = None
) -> Keys:
    """List keys, newest first, revoked ones too; of one organization or all."""
    async with control.database.begin() as tx:
        org = None if org_name is None else await service.org_by_name(tx, org_name)
        found = await service.keys(tx, None if org is None else org.id)
        names = await _org_names(tx)
    return Keys(keys=[KeyAnswer.of(key, names) for key in found])


@router.patch("/keys/{key_id}", operation_id="update_key")
async def update(key_id: str, body: KeyChange, control: Control) -> KeyAnswer:
    """Set what a key may use at most; it counts within a second, for what was used before too."""
    async with control.database.begin() as tx:
        key = await service.change_limits(tx, key_id, body.limits)
        names = await _org_names(tx)
    control.wake("routes")
    return KeyAnswer.of(key, names)


@router.delete("/keys/{key_id}", operation_id="revoke_key")
async def revoke(key_id: str, control: Control) -> KeyAnswer:
    """Revoke a key for good."""
    async with control.database.begin() as tx:
        key = await service.revoke(tx, key_id, now=control.clock.now())
        names = await _org_names(tx)
    control.wake("routes")
    return KeyAnswer.of(key, names)
