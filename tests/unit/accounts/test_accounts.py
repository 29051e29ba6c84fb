"""Orgs and keys on the real database: who is let in, and who no longer is."""

import hashlib
import hmac
from datetime import UTC, datetime, timedelta

import pytest

from weighbridge.accounts import service
from weighbridge.accounts.keys import key_text
from weighbridge.accounts.model import ApiKey, KeyKind, Org
from weighbridge.clock import Clock
from weighbridge.errors import (
    ConflictError,
    InvalidError,
    NotFoundError,
    UnauthenticatedError,
)
from weighbridge.storage.database import Database, Transaction
from weighbridge.storage.tables import api_keys

PEPPER = b"p" * 32
NOW = datetime(2026, 1, 1, tzinfo=UTC)
CLOCK = Clock()


async def make_org(tx: Transaction, name: str = "my-org") -> Org:
    return await service.create_org(
        tx, name, org_id=f"org_{name}", s3_external_id=CLOCK.new_secret(), now=NOW
    )


async def make_key(
    tx: Transaction, kind: KeyKind, org: Org | None, expires_at: datetime | None = None
) -> tuple[ApiKey, str]:
    return await service.create_key(
        tx,
        kind=kind,
        org_id=None if org is None else org.id,
        name="ci",
        expires_at=expires_at,
        pepper=PEPPER,
        key_id=CLOCK.new_short_id(),
        secret=CLOCK.new_secret(),
        now=NOW,
    )


async def test_a_key_opens_until_it_expires_or_is_revoked(database: Database) -> None:
    async with database.begin() as tx:
        org = await make_org(tx)
        key, text = await make_key(tx, KeyKind.MANAGEMENT, org, NOW + timedelta(days=1))
        assert await service.authenticate(tx, PEPPER, text, NOW) == key
        with pytest.raises(UnauthenticatedError):
            await service.authenticate(tx, PEPPER, text, NOW + timedelta(days=1))
        revoked = await service.revoke(tx, key.id, now=NOW)
        assert revoked.revoked_at == NOW
        later = await service.revoke(tx, key.id, now=NOW + timedelta(hours=1))
        assert later.revoked_at == NOW
        with pytest.raises(UnauthenticatedError):
            await service.authenticate(tx, PEPPER, text, NOW)


async def test_another_secret_under_a_known_public_id_is_refused(database: Database) -> None:
    async with database.begin() as tx:
        key, text = await make_key(tx, KeyKind.ADMIN, None)
        forged = key_text(KeyKind.ADMIN, key.id, CLOCK.new_secret())
        for wrong in (
            forged,
            text.replace("wb_admin", "wb_mgmt"),
            "",
            text + "x",
            "Bearer " + text,
        ):
            with pytest.raises(UnauthenticatedError):
                await service.authenticate(tx, PEPPER, wrong, NOW)
        with pytest.raises(UnauthenticatedError):
            await service.authenticate(tx, b"another pepper", text, NOW)


async def test_only_an_hmac_of_the_key_is_stored(database: Database) -> None:
    async with database.begin() as tx:
        _, text = await make_key(tx, KeyKind.ADMIN, None)
        row = (await tx.execute(api_keys.select())).one()
        assert bytes(row.digest) == hmac.digest(PEPPER, text.encode(), hashlib.sha256)
        assert text not in repr(row)


async def test_the_first_admin_key_is_made_once(database: Database) -> None:
    async def ensure(tx: Transaction) -> str | None:
        return await service.ensure_admin_key(
            tx, pepper=PEPPER, key_id=CLOCK.new_short_id(), secret=CLOCK.new_secret(), now=NOW
        )

    async with database.begin() as tx:
        text = await ensure(tx)
        assert text is not None
        assert (await service.authenticate(tx, PEPPER, text, NOW)).kind is KeyKind.ADMIN
        assert await ensure(tx) is None


async def test_the_last_working_admin_key_cannot_be_revoked(database: Database) -> None:
    async with database.begin() as tx:
        first, _ = await make_key(tx, KeyKind.ADMIN, None)
        with pytest.raises(ConflictError, match="last working admin key"):
            await service.revoke(tx, first.id, now=NOW)
        await make_key(tx, KeyKind.ADMIN, None, NOW + timedelta(days=1))
        await service.revoke(tx, first.id, now=NOW)


async def test_keys_and_orgs_that_cannot_be_are_refused(database: Database) -> None:
    async with database.begin() as tx:
        org = await make_org(tx)
        with pytest.raises(InvalidError):
            await make_key(tx, KeyKind.ADMIN, org)
        with pytest.raises(InvalidError):
            await make_key(tx, KeyKind.INFERENCE, None)
        with pytest.raises(InvalidError):
            await make_key(tx, KeyKind.BOTH, org, NOW)
        with pytest.raises(ConflictError):
            await service.create_org(tx, "my-org", org_id="org_2", s3_external_id="x", now=NOW)
        for name in ("", "-a", "a-", "A", "a_b", "a/b", "a\x00", "é", "a" * 64):
            with pytest.raises(InvalidError):
                await make_org(tx, name)
            with pytest.raises(NotFoundError):
                await service.org_by_name(tx, name)
        with pytest.raises(NotFoundError):
            await service.revoke(tx, "no\x00key", now=NOW)
        with pytest.raises(InvalidError):
            await service.set_s3_role(tx, "my-org", "arn:aws:iam::1:user/x")


async def test_the_gateways_table_has_the_live_inference_capable_keys(database: Database) -> None:
    async with database.begin() as tx:
        org = await make_org(tx)
        inference, text = await make_key(tx, KeyKind.INFERENCE, org)
        both, _ = await make_key(tx, KeyKind.BOTH, org, NOW + timedelta(days=1))
        await make_key(tx, KeyKind.MANAGEMENT, org)
        await make_key(tx, KeyKind.ADMIN, None)
        revoked, _ = await make_key(tx, KeyKind.INFERENCE, org)
        await service.revoke(tx, revoked.id, now=NOW)
        table = await service.key_table(tx, NOW)
        assert {entry.key_id for entry in table} == {inference.id, both.id}
        entry = next(entry for entry in table if entry.key_id == inference.id)
        assert entry.digest == hmac.digest(PEPPER, text.encode(), hashlib.sha256).hex()
        assert entry.org_id == org.id
        after = await service.key_table(tx, NOW + timedelta(days=1))
        assert {entry.key_id for entry in after} == {inference.id}
