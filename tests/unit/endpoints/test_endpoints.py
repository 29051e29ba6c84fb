"""Endpoints on the real database: shapes that could not roll out are refused, ids are given once."""

from contextlib import nullcontext
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighbridge.accounts import service as accounts
from weighbridge.accounts.model import Org
from weighbridge.endpoints import service
from weighbridge.engines.base import EngineSettings
from weighbridge.errors import ConflictError, InvalidError, NotFoundError
from weighbridge.registry import service as registry
from weighbridge.storage.database import Database
from weighbridge.storage.tables import deployments, model_versions

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ARCH = "tiny"


@pytest.fixture
async def org(database: Database) -> Org:
    async with database.begin() as tx:
        org = await accounts.create_org(tx, "my-org", org_id="org_1", s3_external_id="x", now=NOW)
        for arch_id, org_ids in ((ARCH, frozenset[str]()), ("private", frozenset({org.id}))):
            await registry.register(
                tx, arch_id, source_uri="/m", base_digest="b", tensors=(), engine=EngineSettings(),
                org_ids=org_ids, now=NOW,
            )  # fmt: skip
        return org


@given(
    replicas=st.integers(-2, 2000),
    max_unavailable=st.integers(-2, 2000),
    max_surge=st.integers(-2, 2000),
    allow_downtime=st.booleans(),
)
def test_a_shape_is_taken_exactly_when_a_rollout_can_move_without_stopping_all_unless_told(
    replicas: int, max_unavailable: int, max_surge: int, allow_downtime: bool
) -> None:
    possible = (
        1 <= replicas <= 1024
        and 0 <= max_unavailable < replicas + allow_downtime
        and 0 <= max_surge <= 1024
        and max_unavailable + max_surge >= 1
    )
    with nullcontext() if possible else pytest.raises(InvalidError):
        service.check_shape(
            replicas=replicas,
            max_unavailable=max_unavailable,
            max_surge=max_surge,
            allow_downtime=allow_downtime,
        )


def test_the_refusal_works_out_what_would_be_possible() -> None:
    with pytest.raises(InvalidError, match="at most 1 here"):
        service.check_shape(replicas=2, max_unavailable=2, max_surge=0)
    with pytest.raises(InvalidError, match="set one of them"):
        service.check_shape(replicas=2, max_unavailable=0, max_surge=0)


async def test_an_endpoint_is_seen_by_its_org_and_by_the_operator(
    database: Database, org: Org
) -> None:
    async with database.begin() as tx:
        made = await service.create(tx, org, "my-org-tiny", ARCH, replicas=2, now=NOW)
        assert await service.get(tx, "my-org-tiny", org_id=org.id) == made
        assert await service.get(tx, "my-org-tiny", org_id=None, lock=True) == made
        with pytest.raises(NotFoundError):
            await service.get(tx, "my-org-tiny", org_id="org_2")
        assert await service.list_of(tx, org.id) == [made]
        assert await service.list_of(tx, "org_2") == []
        assert await service.base_versions(tx, [made]) == {}


@pytest.mark.parametrize(
    "endpoint_id", ["", "A", "-a", ".a", "a_b", "a/b", "a:b", "a\n", "a\x00", "a" * 128]
)
async def test_a_malformed_id_is_refused_and_never_found(
    database: Database, org: Org, endpoint_id: str
) -> None:
    async with database.begin() as tx:
        with pytest.raises(InvalidError):
            await service.create(tx, org, endpoint_id, ARCH, now=NOW)
        with pytest.raises(NotFoundError):
            await service.get(tx, endpoint_id, org_id=None)


async def test_an_id_is_given_out_once(database: Database, org: Org) -> None:
    async with database.begin() as tx:
        await service.create(tx, org, "chat", ARCH, now=NOW)
        with pytest.raises(ConflictError):
            await service.create(tx, org, "chat", ARCH, now=NOW)
        await service.delete(tx, "chat", now=NOW)
        with pytest.raises(NotFoundError):
            await service.get(tx, "chat", org_id=None)
        with pytest.raises(ConflictError, match="was used before"):
            await service.create(tx, org, "chat", ARCH, now=NOW)


async def test_an_update_is_checked_as_a_whole(database: Database, org: Org) -> None:
    async with database.begin() as tx:
        made = await service.create(tx, org, "chat", ARCH, now=NOW)
        with pytest.raises(InvalidError):
            await service.update(tx, "chat", max_surge=0, now=NOW)
        changed = await service.update(
            tx, "chat", replicas=3, max_unavailable=1, max_surge=0, now=NOW
        )
        assert (changed.replicas, changed.max_unavailable, changed.max_surge) == (3, 1, 0)
        assert changed.revision == made.revision + 1
        assert await service.get(tx, "chat", org_id=None) == changed


async def test_an_architecture_must_exist_and_be_the_orgs_to_use(
    database: Database, org: Org
) -> None:
    async with database.begin() as tx:
        other = await accounts.create_org(tx, "other", org_id="org_2", s3_external_id="y", now=NOW)
        with pytest.raises(NotFoundError):
            await service.create(tx, org, "chat", "absent", now=NOW)
        with pytest.raises(InvalidError, match="may not use"):
            await service.create(tx, other, "chat", "private", now=NOW)
        await service.create(tx, org, "chat", "private", now=NOW)


async def test_an_endpoint_is_neither_deleted_nor_shrunk_under_a_rollout(
    database: Database, org: Org
) -> None:
    async with database.begin() as tx:
        await service.create(tx, org, "chat", ARCH, now=NOW)
        await tx.execute(
            model_versions.insert().values(
                id="v1",
                org_id=org.id,
                arch_id=ARCH,
                number=1,
                weight_uri="s3://b/p",
                status="queued",
                created_at=NOW,
                updated_at=NOW,
            )
        )
        await tx.execute(
            deployments.insert().values(
                id="d1",
                sequence=1,
                endpoint_id="chat",
                org_id=org.id,
                arch_id=ARCH,
                version_id="v1",
                version_number=1,
                digest="d",
                fingerprint="f",
                reference="1",
                status="in_progress",
                replicas=1,
                max_unavailable=0,
                max_surge=1,
                created_at=NOW,
                updated_at=NOW,
            )
        )
        with pytest.raises(ConflictError, match="d1 has not ended"):
            await service.delete(tx, "chat", now=NOW)
        await service.update(tx, "chat", replicas=3, now=NOW)
        await tx.execute(deployments.update().values(replicas=2))
        with pytest.raises(ConflictError, match="to 2 replicas"):
            await service.update(tx, "chat", replicas=1, now=NOW)
        assert (await service.update(tx, "chat", replicas=2, now=NOW)).replicas == 2
