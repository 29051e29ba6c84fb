"""Weight syncs whose control plane dies or loses its lease: the next one goes on where they are (W6, D5)."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stub_site import BIG, KEY, Stubbed, until

from ingest_world import World, start_world
from s3_stub import S3Stub
from safetensors_files import safetensors_file
from weighbridge.clock import Clock
from weighbridge.ingest.pump.buffers import BUFFER_BYTES_MAX
from weighbridge.ingest.reconciler import IngestReconciler
from weighbridge.ingest.s3 import S3Access
from weighbridge.ingest.s3.source import HEAD_BYTES
from weighbridge.storage.database import Database

pytestmark = pytest.mark.system


async def test_a_control_plane_that_lost_its_lease_writes_nothing_more(
    stub: S3Stub, database: Database, tmp_path: Path
) -> None:
    stub.objects[KEY] = safetensors_file(BIG)
    stub.bytes_per_s = 4_000_000
    async with (
        start_world(Stubbed(stub), database, tmp_path, BIG) as world,
        world.another() as other,
    ):
        version_id = await world.upload("s3://acme/m")
        await until(world, lambda: len(stub.gets) > 2)
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
    async with start_world(Stubbed(stub), database, tmp_path, BIG, sync_parts_parallel=1) as world:
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


async def _base(world: World) -> str:
    return next(iter(world.store.published()))
