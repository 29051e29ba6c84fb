"""kill -9 around each step that a sync takes with a store in a bucket: the next claim ends it (W1, W2, W6, W8, D2)."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sync_cases import SPECS
from sync_killer import Stubbed, assert_whole, end_all, kill_all, points_of, queue, weights_of

from ingest_world import World, start_world
from s3 import S3Server, running_s3
from s3_stub import S3Stub
from weighbridge.storage.database import Database
from weighbridge.weights.bucket.store import BucketStore

pytestmark = pytest.mark.system

STORE = "operators-store"
STEPS = {
    "look for what is known": "weighbridge.ingest.store:known_digests",
    "make room on the node": "weighbridge.ingest.pump.room:Room.take_first",
    "write a piece": "weighbridge.ingest.pump.writer:StagedWriter.write",
    "verify a file": "weighbridge.ingest.pump.staged:Staged.finish",
    "name the digests": "weighbridge.ingest.store:record_digests",
    "publish blobs": "weighbridge.weights.bucket.store:BucketStore.publish_blobs",
    "look whether one is condemned": "weighbridge.weights.bucket.store:BucketCollector.wait_until_spared",
    "look for a blob": "weighbridge.weights.bucket.store:BucketStore.blob_size",
    "begin an upload": "weighbridge.weights.bucket.objects:Bucket.begin_upload",
    "send a part": "weighbridge.weights.bucket.objects:Bucket.send_part",
    "finish the upload": "weighbridge.weights.bucket.objects:Bucket.finish_upload",
    "put an object": "weighbridge.weights.bucket.objects:Bucket.put",
    "forget a damage": "weighbridge.weights.bucket.objects:Bucket.delete",
    "keep the blobs here": "weighbridge.weights.filesystem:FilesystemStore.publish_blobs",
    "store the index": "weighbridge.weights.bucket.store:BucketStore.put_bytes",
    "lease the manifest": "weighbridge.ingest.sync:Sync._lease_manifest",
    "name the manifest": "weighbridge.ingest.store:record_manifest",
    "publish the version": "weighbridge.weights.bucket.store:BucketStore.publish",
    "look at what was withdrawn": "weighbridge.weights.bucket.store:BucketStore._restore_withdrawn",
    "say that it is done": "weighbridge.ingest.store:finish",
    "sweep its staging": "weighbridge.weights.bucket.store:BucketStore.remove_staging",
}
"""What a sync does with the store, in order, and the function that does it."""
POINTS = points_of(STEPS)


@pytest.fixture
def s3() -> Iterator[S3Server]:
    with running_s3() as server:
        server.create_bucket(STORE)
        yield server


@pytest.fixture
def stub() -> Iterator[S3Stub]:
    with weights_of(len(POINTS)) as server:
        yield server


@pytest.fixture
async def world(
    stub: S3Stub, s3: S3Server, database: Database, tmp_path: Path
) -> AsyncIterator[World]:
    settings = {
        "syncs_parallel": 8,
        "s3_bucket_owner": "first",
        "store_url": f"s3://{STORE}/weights",
        "store_endpoint_url": s3.endpoint_url,
        "store_access_key_id": s3.owner_key[0],
        "store_secret_access_key": s3.owner_key[1],
    }
    async with start_world(Stubbed(stub), database, tmp_path, SPECS, **settings) as ready:
        yield ready


def unfinished(world: World) -> int:
    store = world.store
    assert isinstance(store, BucketStore)
    return len(list(store._bucket.unfinished_uploads(0)))


async def test_a_sync_into_a_bucket_that_is_killed_at_any_step_is_ended_by_the_next_claim(
    world: World, database_url: str, database_schema: str
) -> None:
    ids = await queue(world, len(POINTS))
    kill_all(world, ids, STEPS, database_url, database_schema)
    assert_whole(world)
    assert unfinished(world) > 0, "some were killed between the parts of a blob"
    for version_id, point in zip(ids, POINTS, strict=True):
        row = await world.row(version_id)
        published = row.manifest_digest in world.store.published()
        assert row.status == ("done" if "sweep" in point else "in_progress"), point
        assert published or row.status != "done", point
    await end_all(world, ids)
    assert unfinished(world) == 0, (
        "moto tells that all uploads are years old, so they are abandoned"
    )
