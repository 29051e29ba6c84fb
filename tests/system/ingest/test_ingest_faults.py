"""Weight syncs against a server that misbehaves, and a control plane that is killed (W3, W5, W6, D5)."""

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import awscrt.checksums
import pytest

from ingest_world import SPECS, World, start_world
from s3_stub import Asked, S3Stub, listing, running_stub
from safetensors_files import safetensors_file
from weighbridge.clock import Clock
from weighbridge.ingest.base_model import read_base_model
from weighbridge.ingest.pump.buffers import BUFFER_BYTES_MAX
from weighbridge.ingest.reconciler import IngestReconciler
from weighbridge.ingest.s3 import S3Access
from weighbridge.ingest.s3.source import HEAD_BYTES
from weighbridge.settings import Settings
from weighbridge.storage.database import Database
from weighbridge.weights.tensors import TensorSpec

pytestmark = pytest.mark.system

KEY = "m/model.safetensors"
CONTENT = safetensors_file(SPECS)
ROLE = "arn:aws:iam::123456789012:role/reader"
BIG = (TensorSpec("a", "U8", (40 * 1024 * 1024,)), TensorSpec("b", "U8", (16 * 1024 * 1024,)))


class _Stubbed:
    """What a World needs of a server."""

    def __init__(self, stub: S3Stub) -> None:
        self.endpoint_url = stub.endpoint_url
        self.role_arn = ROLE
        self.external_id = "external-id-of-acme"


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Stub]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "own")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "own-secret")
    with running_stub() as server:
        server.objects[KEY] = CONTENT
        yield server


@pytest.fixture
async def world(stub: S3Stub, database: Database, tmp_path: Path) -> AsyncIterator[World]:
    async with start_world(_Stubbed(stub), database, tmp_path, sync_stall_s=1.5) as ready:
        yield ready


async def test_the_role_is_assumed_with_the_orgs_external_id_for_one_folder_only(
    world: World, stub: S3Stub
) -> None:
    assert (await world.sync("s3://acme/m")).status == "done"
    assert len(stub.roles) == 1
    request = stub.roles[0]
    assert (request["Action"], request["RoleArn"]) == ("AssumeRole", ROLE)
    assert request["ExternalId"] == "external-id-of-acme"
    allowed = json.loads(request["Policy"])["Statement"]
    assert allowed[0]["Resource"] == "arn:aws:s3:::acme/m/*"
    assert allowed[0]["Action"] == ["s3:GetObject", "s3:GetObjectVersion"]
    assert allowed[1]["Condition"] == {"StringLike": {"s3:prefix": "m/*"}}
    assert {get.token for get in stub.gets} == {"token-1"}
    assert all(get.if_match for get in stub.gets)


async def test_an_orgs_own_role_replaces_the_operators(world: World, stub: S3Stub) -> None:
    own = "arn:aws:iam::999999999999:role/own"
    assert (await world.sync("s3://acme/m", role_arn=own)).status == "done"
    assert [request["RoleArn"] for request in stub.roles] == [own]


async def test_credentials_about_to_end_are_renewed_during_the_sync(
    world: World, stub: S3Stub
) -> None:
    stub.credentials_s = 60.0
    assert (await world.sync("s3://acme/m")).status == "done"
    assert len(stub.roles) > 1


async def test_an_expired_token_is_replaced_once_refused(world: World, stub: S3Stub) -> None:
    stub.fault = lambda asked, number: "400" if asked.token == "token-1" else ""
    assert (await world.sync("s3://acme/m")).status == "done"
    assert len(stub.roles) == 2


@pytest.mark.parametrize("fault", ["503", "500", "reset", "short"])
async def test_passing_faults_are_tried_again(fault: str, world: World, stub: S3Stub) -> None:
    stub.fault = lambda asked, number: fault if number % 2 == 0 else ""
    row = await world.sync("s3://acme/m")
    assert row.status == "done"
    directory = world.store.version_dir(row.manifest_digest)
    assert (directory / "model.safetensors").read_bytes() == CONTENT


async def test_a_server_that_only_fails_ends_the_sync_within_its_limit(
    world: World, stub: S3Stub
) -> None:
    stub.fault = lambda asked, number: "503"
    row = await world.sync("s3://acme/m")
    assert (row.status, row.error_code) == ("error", "STALLED")
    assert "SlowDown" in row.error_message


async def test_a_server_that_is_not_there_is_unreachable(world: World, stub: S3Stub) -> None:
    elsewhere = world.settings.model_copy(update={"s3_endpoint_url": "http://127.0.0.1:9"})
    world.reconciler._parts = replace(world.reconciler._parts, access=S3Access(elsewhere))
    row = await world.sync("s3://acme/m")
    assert (row.status, row.error_code) == ("error", "UNREACHABLE")


@pytest.mark.parametrize("change", ["overwritten", "deleted"])
async def test_an_object_that_changes_after_it_was_pinned_fails_the_sync(
    change: str, world: World, stub: S3Stub
) -> None:
    def tamper(asked: Asked, number: int) -> str:
        if number == 1 and change == "overwritten":
            stub.objects[KEY] = safetensors_file(SPECS, fill=9)
        elif number == 1:
            del stub.objects[KEY]
        return ""

    stub.fault = tamper
    row = await world.sync("s3://acme/m")
    assert (row.status, row.error_code) == ("error", "SOURCE_CHANGED")
    assert change in row.error_message


@pytest.mark.parametrize("fault", ["range ignored", "other range"])
async def test_an_answer_that_is_not_the_range_asked_is_refused(
    fault: str, world: World, stub: S3Stub
) -> None:
    stub.fault = lambda asked, number: fault if number > 0 else ""
    if fault == "range ignored":
        stub.fault = lambda asked, number: fault
    row = await world.sync("s3://acme/m")
    assert (row.status, row.error_code) == ("error", "S3_PROTOCOL")


async def test_wrong_bytes_are_fetched_again_and_then_named(world: World, stub: S3Stub) -> None:
    stub.checksums[KEY] = _crc64(CONTENT)
    stub.fault = lambda asked, number: "wrong" if number == 1 else ""
    assert (await world.sync("s3://acme/m")).status == "done"
    await world.execute("DELETE FROM sync_files")
    stub.gets.clear()
    stub.fault = lambda asked, number: "wrong" if number > 0 else ""
    row = await world.sync("s3://acme/m")
    assert (row.status, row.error_code) == ("error", "CHECKSUM")
    assert len(stub.gets) == 4


@pytest.mark.parametrize(
    "page",
    [
        listing("<Contents><Key>m/a</Key><Size>1</Size></Contents>", token="again"),
        listing("<Contents><Key>other/a</Key><Size>1</Size></Contents>"),
        listing("", token="again"),
    ],
)
async def test_a_listing_that_loops_or_strays_is_refused(
    page: str, world: World, stub: S3Stub
) -> None:
    stub.list_pages.append(page)
    row = await world.sync("s3://acme/m")
    assert (row.status, row.error_code) == ("error", "LISTING_LOOPS")


async def test_a_running_sync_stops_when_it_is_cancelled(
    stub: S3Stub, database: Database, tmp_path: Path
) -> None:
    stub.objects[KEY] = safetensors_file(BIG)
    stub.bytes_per_s = 2_000_000
    async with start_world(_Stubbed(stub), database, tmp_path, BIG) as world:
        version_id = await world.upload("s3://acme/m")
        await _until(world, lambda: len(stub.gets) > 2)
        await world.execute("UPDATE model_versions SET cancel_requested = true")
        began = time.monotonic()
        row = await world.finished(version_id)
        assert (row.status, row.error_code) == ("cancelled", "CANCELLED")
        assert time.monotonic() - began < 10
        assert world.store.staging_owners() == set()


async def test_a_throttling_server_slows_the_sync_and_does_not_fail_it(
    stub: S3Stub, database: Database, tmp_path: Path
) -> None:
    stub.objects[KEY] = safetensors_file(BIG)
    stub.fault = lambda asked, number: "503" if number % 5 in (1, 2, 3) else ""
    async with start_world(_Stubbed(stub), database, tmp_path, BIG) as world:
        row = await world.sync("s3://acme/m")
    assert row.status == "done"


async def test_two_syncs_of_one_content_fetch_it_once(
    stub: S3Stub, database: Database, tmp_path: Path
) -> None:
    content = safetensors_file(BIG)
    stub.objects = {"m/model.safetensors": content, "copy/model.safetensors": content}
    stub.checksums = dict.fromkeys(stub.objects, _crc64(content))
    stub.bytes_per_s = 40_000_000
    async with start_world(_Stubbed(stub), database, tmp_path, BIG) as world:
        ids = [await world.upload(f"s3://acme/{folder}") for folder in ("m", "copy", "m")]
        rows = [await world.finished(version_id) for version_id in ids]
    assert [row.status for row in rows] == ["done"] * 3
    assert len({row.manifest_digest for row in rows}) == 1
    fetched = sum(get.end - get.start for get in stub.gets)
    assert fetched < len(content) + 4 * 1024 * 1024


async def test_content_the_org_has_is_not_fetched_again_from_another_place(
    world: World, stub: S3Stub
) -> None:
    stub.objects["moved/model.safetensors"] = CONTENT
    for key in stub.objects:
        stub.checksums[key] = _crc64(CONTENT)
    first = await world.sync("s3://acme/m")
    before = len(stub.gets)
    second = await world.sync("s3://acme/moved")
    assert (first.status, second.status) == ("done", "done")
    assert second.manifest_digest == first.manifest_digest
    # Only its header was read, for the verdict.
    assert len(stub.gets) - before == 1


async def test_collection_leaves_what_a_running_sync_counts_on(world: World, stub: S3Stub) -> None:
    row = await world.sync("s3://acme/m")
    digest = world.store.manifest(row.manifest_digest).by_path()["model.safetensors"].digest
    running = await world.upload("s3://acme/other")
    await world.execute(
        f"INSERT INTO sync_files (version_id, key, path, size_bytes, etag, digest) "
        f"VALUES ('{running}', 'k', 'p', 1, 'e', '{digest}')"
    )
    await world.execute(f"UPDATE model_versions SET deleted_at = now() WHERE id = '{row.id}'")
    await world.reconciler.collect()
    assert row.manifest_digest not in world.store.published()
    assert world.store.has_blob(digest)
    await world.execute(f"UPDATE model_versions SET status = 'error' WHERE id = '{running}'")
    world.store.collect_blobs(age_min_s=0, leased=lambda: ())
    assert not world.store.has_blob(digest)


async def test_a_rotten_blob_is_found_and_its_version_withdrawn(world: World) -> None:
    row = await world.sync("s3://acme/m")
    digest = world.store.manifest(row.manifest_digest).by_path()["model.safetensors"].digest
    blob = world.store.blob_path(digest)
    blob.chmod(0o644)
    with blob.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff")
    world.store.verifications.ask()
    limit = time.monotonic() + 30
    while not world.store.quarantine.damages():
        assert time.monotonic() < limit
        await world.reconciler.reconcile()
        await asyncio.sleep(0.05)
    assert row.manifest_digest not in world.store.published()
    again = await world.sync("s3://acme/m")
    assert again.manifest_digest == row.manifest_digest
    assert world.store.version_dir(row.manifest_digest).is_dir()


async def test_a_control_plane_that_lost_its_lease_writes_nothing_more(
    stub: S3Stub, database: Database, tmp_path: Path
) -> None:
    stub.objects[KEY] = safetensors_file(BIG)
    stub.bytes_per_s = 4_000_000
    async with (
        start_world(_Stubbed(stub), database, tmp_path, BIG) as world,
        world.another() as other,
    ):
        version_id = await world.upload("s3://acme/m")
        await _until(world, lambda: len(stub.gets) > 2)
        await world.execute("UPDATE leases SET expires_at = '-infinity'")
        await other.reconcile()
        assert (await world.row(version_id)).claim_epoch == 2
        await world.reconciler.idle()
        assert set(other._tasks) == {version_id}
        stub.bytes_per_s = 0.0
        await other.idle()
        row = await world.row(version_id)
    assert (row.status, row.claim_epoch) == ("done", 2)


async def test_a_sync_goes_on_where_a_killed_control_plane_left_it(
    stub: S3Stub, database: Database, database_url: str, database_schema: str, tmp_path: Path
) -> None:
    content = safetensors_file(BIG)
    stub.objects[KEY] = content
    stub.bytes_per_s = 20_000_000
    async with start_world(_Stubbed(stub), database, tmp_path, BIG, sync_parts_parallel=1) as world:
        version_id = await world.upload("s3://acme/m")
        child = _control_plane(database_url, database_schema, world)
        try:
            await _until_journalled(world.root, child)
        finally:
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
        interrupted = await world.row(version_id)
        assert interrupted.status == "in_progress"
        assert world.store.published() == {await _base(world)}

        stub.bytes_per_s = 0.0
        before = len(stub.gets)
        settings = world.settings
        after = IngestReconciler(
            database, world.store, S3Access(settings), Clock(), settings, holder="node-1"
        )
        await world.reconciler.close()
        world.reconciler = after
        row = await world.finished(version_id)
    assert (row.status, row.claim_epoch) == ("done", 2)
    directory = world.store.version_dir(row.manifest_digest)
    assert (directory / "model.safetensors").read_bytes() == content
    fetched = sum(get.end - get.start for get in stub.gets[before:])
    assert fetched <= len(content) - BUFFER_BYTES_MAX + HEAD_BYTES


_CONTROL_PLANE = """
import asyncio, sys
from pathlib import Path
from weighbridge.clock import Clock
from weighbridge.control.loop import Loop
from weighbridge.control.wake import Wake
from weighbridge.ingest.base_model import read_base_model
from weighbridge.ingest.reconciler import IngestReconciler
from weighbridge.ingest.s3 import S3Access
from weighbridge.settings import Settings
from weighbridge.storage.database import Database
from weighbridge.weights.filesystem import FilesystemStore

settings = Settings.model_validate_json(sys.argv[3])
store = FilesystemStore(Path(sys.argv[4]))

async def main():
    database = Database(sys.argv[1], schema=sys.argv[2])
    reconciler = IngestReconciler(
        database, store, S3Access(settings), Clock(), settings, holder="node-1"
    )
    await Loop("ingest", reconciler.reconcile, Wake()).run()

asyncio.run(main())
"""


def _control_plane(url: str, schema: str, world: World) -> "subprocess.Popen[bytes]":
    settings = world.settings.model_dump_json()
    return subprocess.Popen(
        [sys.executable, "-c", _CONTROL_PLANE, url, schema, settings, str(world.root)],
        stdout=subprocess.DEVNULL,
    )


async def _until_journalled(root: Path, child: "subprocess.Popen[bytes]") -> None:
    limit = time.monotonic() + 60
    while not _journalled(root):
        assert child.poll() is None
        assert time.monotonic() < limit
        await asyncio.sleep(0.02)


def _journalled(root: Path) -> bool:
    return any(path.stat().st_size for path in root.glob("staging/*/*.journal"))


async def _until(world: World, condition: object) -> None:
    limit = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit
        await world.reconciler.reconcile()
        await asyncio.sleep(0.05)


async def _base(world: World) -> str:
    return next(iter(world.store.published()))


async def test_a_base_model_is_read_from_a_bucket_with_the_servers_own_credentials(
    stub: S3Stub,
) -> None:
    stub.objects = {
        "base/config.json": b"{}",
        "base/tokenizer.json": b"{}",
        "base/model.safetensors": CONTENT,
    }
    model = await read_base_model(
        "s3://acme/base/", S3Access(Settings(s3_endpoint_url=stub.endpoint_url, s3_role_arn=ROLE))
    )
    assert sorted(model.files) == ["config.json", "tokenizer.json"]
    assert model.tensors == tuple(sorted(SPECS))
    assert stub.roles == []


def _crc64(content: bytes) -> str:
    return base64.b64encode(awscrt.checksums.crc64nvme(content).to_bytes(8, "big")).decode()
