"""Versions, aliases and architectures on the real database, also under concurrency."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from weighbridge.accounts import service as accounts
from weighbridge.accounts.model import Org
from weighbridge.clock import Clock
from weighbridge.endpoints import service as endpoints
from weighbridge.engines.base import EngineSettings
from weighbridge.errors import ConflictError, InvalidError, NotFoundError
from weighbridge.registry import service
from weighbridge.registry.model import Architecture, ModelVersion, SyncStatus
from weighbridge.storage.database import Database, Transaction
from weighbridge.storage.tables import deployments, model_versions, replicas
from weighbridge.weights.tensors import TensorSpec

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ARCH = "llama-3.3-70b"
TENSORS = (TensorSpec("b", "BF16", (2, 3)), TensorSpec("a", "F32", ()))
CLOCK = Clock()


async def make_org(tx: Transaction, name: str) -> Org:
    return await accounts.create_org(tx, name, org_id=f"org_{name}", s3_external_id=name, now=NOW)


async def register(
    tx: Transaction,
    arch_id: str = ARCH,
    *,
    org_ids: frozenset[str] = frozenset(),
    **changes: object,
) -> Architecture:
    values: dict[str, object] = {
        "source_uri": "/models/base",
        "base_digest": "b" * 64,
        "tensors": TENSORS,
        "engine": EngineSettings(extra_args=("--x",), env={"A": "1"}),
        **changes,
    }
    return await service.register(tx, arch_id, org_ids=org_ids, now=NOW, **values)


async def upload(tx: Transaction, org: Org, *aliases: str, arch_id: str = ARCH) -> ModelVersion:
    return await service.upload(
        tx, org, arch_id, "s3://bucket/prefix", aliases, None, version_id=CLOCK.new_uuid(), now=NOW
    )


@pytest.fixture
async def org(database: Database) -> Org:
    async with database.begin() as tx:
        await register(tx)
        return await make_org(tx, "my-org")


async def test_twenty_uploads_at_once_get_the_numbers_1_to_20(database: Database, org: Org) -> None:
    async def one() -> int:
        async with database.begin() as tx:
            return (await upload(tx, org)).number

    numbers = await asyncio.gather(*(one() for _ in range(20)))
    assert sorted(numbers) == list(range(1, 21))


async def test_of_parallel_claims_of_an_alias_one_wins(database: Database, org: Org) -> None:
    async def by_upload() -> int | str:
        try:
            async with database.begin() as tx:
                return (await upload(tx, org, "production")).number
        except ConflictError as error:
            return error.code

    async def by_patch(number: int) -> int | str:
        try:
            async with database.begin() as tx:
                return (
                    await service.set_aliases(tx, org.id, ARCH, number, ["production"], now=NOW)
                ).number
        except ConflictError as error:
            return error.code

    async with database.begin() as tx:
        for _ in range(4):
            await upload(tx, org)
    outcomes = await asyncio.gather(
        *(by_upload() for _ in range(4)), *(by_patch(number) for number in range(1, 5))
    )
    assert sorted(map(str, outcomes)).count("alias_taken") == 7
    winner = next(outcome for outcome in outcomes if isinstance(outcome, int))
    async with database.begin() as tx:
        assert (await service.resolve(tx, org.id, ARCH, "production")).number == winner
        numbers = [version.number for version in await service.versions(tx, org.id, ARCH)]
    assert numbers == list(range(1, len(numbers) + 1))


async def test_numbers_are_per_org_and_architecture_and_not_given_again_after_a_delete(
    database: Database, org: Org
) -> None:
    async with database.begin() as tx:
        await register(tx, "other")
        second = await make_org(tx, "second")
        assert [(await upload(tx, org)).number for _ in range(2)] == [1, 2]
        assert (await upload(tx, org, arch_id="other")).number == 1
        assert (await upload(tx, second)).number == 1
        await service.delete(tx, org.id, ARCH, 2, now=NOW)
        assert (await upload(tx, org)).number == 3


async def test_numbers_go_on_when_an_architecture_is_registered_again(
    database: Database, org: Org
) -> None:
    async with database.begin() as tx:
        await upload(tx, org)
        with pytest.raises(ConflictError, match="has model versions"):
            await service.delete_architecture(tx, ARCH, now=NOW)
        await service.delete(tx, org.id, ARCH, 1, now=NOW)
        with pytest.raises(ConflictError, match="has model versions"):
            await service.delete_architecture(tx, ARCH, now=NOW)
        await tx.execute(model_versions.update().values(status=SyncStatus.CANCELLED))
        await service.delete_architecture(tx, ARCH, now=NOW)
        with pytest.raises(NotFoundError):
            await service.architecture(tx, ARCH)
        with pytest.raises(NotFoundError):
            await upload(tx, org)
        await register(tx, base_digest="c" * 64)
        assert (await upload(tx, org)).number == 2


async def test_a_refused_upload_leaves_no_version_and_no_gap(database: Database, org: Org) -> None:
    async with database.begin() as tx:
        await upload(tx, org, "production", "stable")
    with pytest.raises(ConflictError, match="held by version 1"):
        async with database.begin() as tx:
            await upload(tx, org, "fresh", "production")
    async with database.begin() as tx:
        with pytest.raises(NotFoundError):
            await service.resolve(tx, org.id, ARCH, "fresh")
        assert (await upload(tx, org)).number == 2


async def test_aliases_are_replaced_as_one_set_in_the_callers_order(
    database: Database, org: Org
) -> None:
    async with database.begin() as tx:
        await upload(tx, org, "b1", "a1")
        version = await service.set_aliases(tx, org.id, ARCH, "b1", ["z1", "b1", "m1"], now=NOW)
        assert version.aliases == ("z1", "b1", "m1")
        assert (await service.resolve(tx, org.id, ARCH, 1)).aliases == ("z1", "b1", "m1")
        with pytest.raises(NotFoundError):
            await service.resolve(tx, org.id, ARCH, "a1")
        assert (await service.set_aliases(tx, org.id, ARCH, 1, [], now=NOW)).aliases == ()
        await upload(tx, org, "b1")


async def test_another_orgs_version_is_absent(database: Database, org: Org) -> None:
    async with database.begin() as tx:
        second = await make_org(tx, "second")
        await upload(tx, org, "production")
        for ref in (1, "production"):
            with pytest.raises(NotFoundError):
                await service.resolve(tx, second.id, ARCH, ref)
            with pytest.raises(NotFoundError):
                await service.set_aliases(tx, second.id, ARCH, ref, ["mine"], now=NOW)
            with pytest.raises(NotFoundError):
                await service.delete(tx, second.id, ARCH, ref, now=NOW)
        assert await service.versions(tx, second.id, ARCH) == []


async def test_an_architecture_of_other_orgs_looks_like_none(database: Database, org: Org) -> None:
    async with database.begin() as tx:
        second = await make_org(tx, "second")
        await register(tx, "private", org_ids=frozenset({second.id}))
        assert [a.id for a in await service.architectures(tx, org.id)] == [ARCH]
        assert [a.id for a in await service.architectures(tx, second.id)] == [ARCH, "private"]
        for arch_id in ("private", "absent", "a\x00b"):
            with pytest.raises(NotFoundError) as caught:
                await upload(tx, org, arch_id=arch_id)
            assert caught.value.code == "model_architecture_not_found"
            with pytest.raises(NotFoundError):
                await service.versions(tx, org.id, arch_id)


async def test_registering_is_idempotent_and_refuses_other_content(
    database: Database, org: Org
) -> None:
    async with database.begin() as tx:
        first = await service.architecture(tx, ARCH)
        assert first.tensors == tuple(sorted(TENSORS))
        assert await register(tx) == first
        moved = await register(tx, org_ids=frozenset({org.id}), source_uri="s3://b/base")
        assert moved.org_ids == {org.id}
        assert await service.architecture(tx, ARCH) == moved
        changes: list[dict[str, object]] = [
            {"base_digest": "c" * 64},
            {"tensors": TENSORS[:1]},
            {"engine": replace(first.engine, slots=5)},
        ]
        for change in changes:
            with pytest.raises(ConflictError, match="new id"):
                await register(tx, org_ids=frozenset({org.id}), **change)
        with pytest.raises(InvalidError):
            await register(tx, "../x")


async def deploy_row(tx: Transaction, org: Org, version: ModelVersion, status: str) -> str:
    await endpoints.create(tx, org, "chat", ARCH, now=NOW)
    values = {
        "id": CLOCK.new_uuid(), "sequence": 1, "endpoint_id": "chat", "org_id": org.id, "arch_id": ARCH,
        "version_id": version.id, "version_number": version.number, "digest": "d", "fingerprint": "f",
        "reference": "1", "status": status, "replicas": 1, "max_unavailable": 0, "max_surge": 1,
        "created_at": NOW, "updated_at": NOW,
    }  # fmt: skip
    await tx.execute(deployments.insert().values(values))
    return str(values["id"])


async def replica_row(tx: Transaction, version: ModelVersion, deployment: str, state: str) -> None:
    await tx.execute(
        replicas.insert().values(
            id=CLOCK.new_short_id(),
            endpoint_id="chat",
            deployment_id=deployment,
            version_id=version.id,
            version_number=1,
            digest="d",
            fingerprint="f",
            state=state,
            slot=0,
            created_at=NOW,
            state_since=NOW,
        )
    )


@pytest.mark.parametrize("status", ["not_started", "in_progress", "rolling_back"])
async def test_the_target_of_an_open_deployment_cannot_be_deleted(
    database: Database, org: Org, status: str
) -> None:
    async with database.begin() as tx:
        version = await upload(tx, org)
        deployment = await deploy_row(tx, org, version, status)
        with pytest.raises(
            ConflictError, match=f"deployment {deployment} takes it to endpoint chat"
        ):
            await service.delete(tx, org.id, ARCH, 1, now=NOW)


@pytest.mark.parametrize(
    ("state", "held"),
    [
        ("pending", True),
        ("ready", True),
        ("draining", True),
        ("stopping", True),
        ("stopped", False),
        ("lost", False),
    ],
)
async def test_a_version_that_replicas_run_cannot_be_deleted(
    database: Database, org: Org, state: str, held: bool
) -> None:
    async with database.begin() as tx:
        version = await upload(tx, org)
        deployment = await deploy_row(tx, org, version, "rolled_back")
        await replica_row(tx, version, deployment, state)
        if held:
            with pytest.raises(ConflictError, match="replicas of endpoint chat run it"):
                await service.delete(tx, org.id, ARCH, 1, now=NOW)
        else:
            await service.delete(tx, org.id, ARCH, 1, now=NOW)


async def test_the_last_good_version_cannot_be_deleted_until_its_endpoint_is(
    database: Database, org: Org
) -> None:
    async with database.begin() as tx:
        version = await upload(tx, org)
        deployment = await deploy_row(tx, org, version, "done")
        await tx.execute(endpoints.store.endpoints.update().values(base_deployment_id=deployment))
        with pytest.raises(ConflictError, match="last good version of endpoint chat"):
            await service.delete(tx, org.id, ARCH, 1, now=NOW)
        await endpoints.delete(tx, "chat", now=NOW)
        await service.delete(tx, org.id, ARCH, 1, now=NOW)


async def test_a_deleted_version_is_gone_at_once_and_its_sync_is_told_to_stop(
    database: Database, org: Org
) -> None:
    async with database.begin() as tx:
        version = await upload(tx, org, "production")
        await service.delete(tx, org.id, ARCH, "production", now=NOW)
        for ref in (1, "production"):
            with pytest.raises(NotFoundError):
                await service.resolve(tx, org.id, ARCH, ref)
        assert await service.versions(tx, org.id, ARCH) == []
        row = (await tx.execute(model_versions.select())).one()
        assert (row.id, row.deleted_at, row.cancel_requested) == (version.id, NOW, True)
        await upload(tx, org, "production")


def test_a_fingerprint_names_the_bytes_and_ends_in_the_suffix() -> None:
    assert service.fingerprint("0123456789abcdef" * 4, None) == "fp_0123456789abcdef0123"
    assert service.fingerprint("0123456789abcdef" * 4, "x.1") == "fp_0123456789abcdef0123-x.1"
