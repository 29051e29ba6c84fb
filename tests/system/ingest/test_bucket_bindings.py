"""A bucket belongs to the org that proved it can read it; nobody else's upload reads it (T7, threat 2)."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from ingest_world import SPECS, World, start_world
from s3_stub import Request, S3Stub, running_stub
from safetensors_files import safetensors_file
from weighbridge.clock import new_uuid
from weighbridge.ingest.model import S3Prefix
from weighbridge.ingest.s3.access import S3Access
from weighbridge.ingest.s3.policies import Reader
from weighbridge.storage.database import Database

pytestmark = pytest.mark.system

OWN = "arn:aws:iam::999999999999:role/own"
SHARED = "arn:aws:iam::123456789012:role/reader"


class _Stubbed:
    def __init__(self, stub: S3Stub) -> None:
        self.endpoint_url = stub.endpoint_url
        self.role_arn = SHARED
        self.external_id = "external-id-of-acme"


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Stub]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "own")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "own-secret")
    with running_stub() as server:
        server.objects["m/model.safetensors"] = safetensors_file(SPECS)
        server.refusal = lambda request: refuse_strangers(server, request)
        yield server


SESSIONS = {
    Reader(S3Prefix("acme", "m"), SHARED, external_id, shared=True).session_name
    for external_id in ("external-id-of-acme", "x-2")
}


def refuse_strangers(stub: S3Stub, request: Request) -> tuple[int, str] | None:
    """As a bucket policy that names the sessions of its org; here either org's, so that the binding is what decides."""
    if request.operation != "ListObjectsV2":
        return None
    number = int(request.headers["X-Amz-Security-Token"].partition("-")[2])
    known = stub.roles[number - 1]["RoleSessionName"] in SESSIONS
    return None if known else (403, "AccessDenied")


@pytest.fixture
async def world(stub: S3Stub, database: Database, tmp_path: Path) -> AsyncIterator[World]:
    async with start_world(_Stubbed(stub), database, tmp_path, sync_stall_s=1.5) as ready:
        await ready.execute(
            "INSERT INTO orgs (id, name, s3_external_id, created_at) VALUES ('org_2', 'beta', 'x-2', now())"
        )
        yield ready


async def sync(world: World, org_id: str, *, role_arn: str | None = None) -> tuple[str, str | None]:
    version_id = new_uuid()
    async with world.database.begin() as tx:
        role = text("UPDATE orgs SET s3_role_arn = :role WHERE id = :org")
        await tx.execute(role, {"role": role_arn, "org": org_id})
        upload = text(
            """
            INSERT INTO model_versions (id, org_id, arch_id, number, weight_uri, status, created_at, updated_at)
            SELECT :id, :org, 'tiny', count(*) + 1, 's3://acme/m', 'queued', now(), now() FROM model_versions
            """
        )
        await tx.execute(upload, {"id": version_id, "org": org_id})
    row = await world.finished(version_id)
    return row.status, row.error_code


@pytest.mark.parametrize("proof", [OWN, None])
async def test_the_shared_role_reads_a_bucket_for_the_org_that_had_it_first(
    world: World, stub: S3Stub, proof: str | None
) -> None:
    assert await sync(world, "org_1", role_arn=proof) == ("done", None)
    asked = len(stub.gets), len(stub.roles)
    assert await sync(world, "org_2") == ("error", "BUCKET_BOUND")
    assert (len(stub.gets), len(stub.roles)) == asked, "nothing was asked of S3"
    assert await sync(world, "org_1", role_arn=proof) == ("done", None)


async def test_an_org_with_a_role_of_its_own_is_let_in_but_does_not_take_the_bucket(
    world: World,
) -> None:
    assert await sync(world, "org_1") == ("done", None)
    assert await sync(world, "org_2", role_arn=OWN) == ("done", None)
    assert await sync(world, "org_2") == ("error", "BUCKET_BOUND")
    assert await sync(world, "org_1") == ("done", None)


async def test_a_failed_read_proves_nothing(world: World, stub: S3Stub) -> None:
    kept = dict(stub.objects)
    stub.objects.clear()
    assert await sync(world, "org_2") == ("error", "EMPTY")
    stub.objects |= kept
    assert await sync(world, "org_1") == ("done", None)


async def test_sessions_of_two_orgs_have_names_that_a_bucket_policy_can_tell_apart(
    world: World, stub: S3Stub
) -> None:
    await sync(world, "org_1", role_arn=OWN)
    await sync(world, "org_2", role_arn=OWN)
    names = {request["RoleSessionName"] for request in stub.roles}
    assert len(names) == 2
    assert {request["ExternalId"] for request in stub.roles} == {"external-id-of-acme", "x-2"}
    assert all(name.startswith("weighbridge-") for name in names)


async def test_a_bucket_that_lets_every_org_in_is_read_for_none(world: World, stub: S3Stub) -> None:
    """Before the owner has uploaded anything, nobody else can be first at his bucket."""
    stub.refusal = lambda request: None
    assert await sync(world, "org_2") == ("error", "BUCKET_UNPROVEN")
    assert stub.gets == []
    assert len({request["RoleSessionName"] for request in stub.roles} & SESSIONS) == 0
    stub.refusal = lambda request: refuse_strangers(stub, request)
    assert await sync(world, "org_1") == ("done", None)
    stub.refusal = lambda request: None
    assert await sync(world, "org_1") == ("done", None), "it is bound, and asked no more"


async def test_a_role_that_takes_any_external_id_is_not_used(world: World, stub: S3Stub) -> None:
    stub.roles_are_closed = False
    stub.refusal = lambda request: None
    assert await sync(world, "org_2", role_arn=OWN) == ("error", "ROLE_OPEN")
    assert stub.gets == []


async def test_an_operator_may_let_the_first_reader_have_a_bucket(
    world: World, stub: S3Stub
) -> None:
    stub.refusal = lambda request: None
    settings = world.settings.model_copy(update={"s3_bucket_owner": "first"})
    world.reconciler._parts = replace(world.reconciler._parts, access=S3Access(settings))
    assert await sync(world, "org_2") == ("done", None)
    assert await sync(world, "org_1") == ("error", "BUCKET_BOUND")


async def test_without_a_role_nothing_can_be_proven(world: World, stub: S3Stub) -> None:
    settings = world.settings.model_copy(update={"s3_role_arn": None})
    world.reconciler._parts = replace(world.reconciler._parts, access=S3Access(settings))
    assert await sync(world, "org_2") == ("error", "BUCKET_UNPROVEN")
    assert (stub.gets, stub.roles) == ([], [])
