"""kill -9 before and after each step of a sync: the next claim ends it, what was published is whole (W2, W6, D2)."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sync_cases import SPECS
from sync_killer import Stubbed, assert_whole, end_all, kill_all, points_of, queue, weights_of

from ingest_world import World, start_world
from s3_stub import S3Stub
from weighbridge.storage.database import Database

pytestmark = pytest.mark.system

STEPS = {
    "claim the version": "weighbridge.ingest.store:claim",
    "read the order": "weighbridge.ingest.store:order",
    "check whose bucket it is": "weighbridge.ingest.s3.bindings:require",
    "read the architecture": "weighbridge.ingest.sync:read_wish",
    "assume the role": "weighbridge.ingest.s3.access:S3Access.assume",
    "list the folder": "weighbridge.ingest.s3.source:Source.list_folder",
    "pin an object": "weighbridge.ingest.s3.source:Source.pin",
    "bind the bucket": "weighbridge.ingest.s3.bindings:bind",
    "record the snapshot": "weighbridge.ingest.store:record_snapshot",
    "read the headers": "weighbridge.ingest.sync:read_headers",
    "judge them": "weighbridge.ingest.sync:judge",
    "look for what is known": "weighbridge.ingest.store:known_digests",
    "reserve the disk": "weighbridge.ingest.pump.room:reserve",
    "take the turn": "weighbridge.ingest.pump.turn:Turn.enter",
    "fetch a part": "weighbridge.ingest.pump.staged:Staged.obtain",
    "write a piece": "weighbridge.ingest.pump.writer:StagedWriter.write",
    "journal a part": "weighbridge.ingest.pump.journal:Journal.note",
    "verify a file": "weighbridge.ingest.pump.staged:Staged.finish",
    "name the digests": "weighbridge.ingest.store:record_digests",
    "publish blobs": "weighbridge.weights.filesystem:FilesystemStore.publish_blobs",
    "fsync a blob": "weighbridge.weights.filesystem:fsync_file",
    "rename a blob": "pathlib:Path.replace",
    "fsync a directory": "weighbridge.weights.filesystem:fsync_directory",
    "leave the turn": "weighbridge.ingest.pump.turn:Turn.leave",
    "store the index": "weighbridge.weights.filesystem:FilesystemStore.put_bytes",
    "lease the manifest": "weighbridge.ingest.sync:Sync._lease_manifest",
    "name the manifest": "weighbridge.ingest.store:record_manifest",
    "publish the version": "weighbridge.weights.filesystem:FilesystemStore.publish",
    "link a file": "pathlib:Path.hardlink_to",
    "write the manifest": "weighbridge.weights.filesystem:write_durably",
    "show the directory": "weighbridge.weights.filesystem:rename_directory",
    "say that it is done": "weighbridge.ingest.store:finish",
    "sweep its staging": "weighbridge.weights.filesystem:FilesystemStore.remove_staging",
}
"""Every step of a sync that reads, writes or tells something, in order, and the function that takes it."""
POINTS = points_of(STEPS)


@pytest.fixture
def stub() -> Iterator[S3Stub]:
    with weights_of(len(POINTS)) as server:
        yield server


@pytest.fixture
async def world(stub: S3Stub, database: Database, tmp_path: Path) -> AsyncIterator[World]:
    settings = {"syncs_parallel": 8, "s3_bucket_owner": "first"}
    async with start_world(Stubbed(stub), database, tmp_path, SPECS, **settings) as ready:
        yield ready


async def test_a_sync_that_is_killed_at_any_step_is_ended_by_the_next_claim(
    world: World, database_url: str, database_schema: str
) -> None:
    ids = await queue(world, len(POINTS))
    kill_all(world, ids, STEPS, database_url, database_schema)
    assert_whole(world)
    for version_id, point in zip(ids, POINTS, strict=True):
        row = await world.row(version_id)
        # `finish` is called before its transaction ends, so only the sweep comes after `done`.
        expected = {"claim": "queued", "sweep": "done"}.get(point.split()[1], "in_progress")
        if point in {"before read the order", "after read the order"}:
            expected = "queued"  # claimed in the same transaction
        assert row.status == expected, point
    await end_all(world, ids)
