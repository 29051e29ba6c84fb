"""The room on this node that a fetch into a store in a bucket takes: of what is on its way, not of it all (W9)."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from s3 import running_s3
from weighbridge.ingest.model import PinnedFile
from weighbridge.ingest.pulse import Pulse
from weighbridge.ingest.pump.fetch import fetch
from weighbridge.ingest.pump.room import Room
from weighbridge.ingest.pump.staged import FetchOrder, Whole
from weighbridge.ingest.s3.faults import SourceError
from weighbridge.weights.bucket.objects import Bucket
from weighbridge.weights.bucket.store import BucketStore
from weighbridge.weights.filesystem import FilesystemStore
from weighbridge.weights.node.cache import NodeCache

pytestmark = pytest.mark.system

FILE_BYTES = 4 * 1024 * 1024
FILES = 5


class SmallDisk(FilesystemStore):
    capacity_bytes = FILE_BYTES * 5 // 2
    least_free_bytes = capacity_bytes

    def free_bytes(self) -> int:
        files = [path for path in self._root.rglob("*") if path.is_file()]
        used = sum(path.stat().st_blocks * 512 for path in files)
        self.least_free_bytes = min(self.least_free_bytes, self.capacity_bytes - used)
        return self.capacity_bytes - used

    def total_bytes(self) -> int:
        return self.capacity_bytes


class Contents:
    def __init__(self) -> None:
        self.by_key = {f"{number}.bin": os.urandom(FILE_BYTES) for number in range(FILES)}

    def stream(
        self, file: PinnedFile, start: int, end: int, room: Callable[[int], memoryview]
    ) -> Iterator[memoryview]:
        at = start
        while at < end:
            view = room(min(end - at, 1024 * 1024))
            view[:] = self.by_key[file.key][at : at + len(view)]
            at += len(view)
            yield view


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BucketStore]:
    with running_s3() as s3:
        s3.create_bucket("store")
        bucket = Bucket("store", "", endpoint_url=s3.endpoint_url, access_key=s3.owner_key)
        cache = NodeCache(SmallDisk(tmp_path), in_use=lambda: (), free_min_share=0.0)
        yield BucketStore(bucket, cache, "node")


def orders_of(store: BucketStore, contents: Contents, room: Room) -> list[FetchOrder]:
    return [
        FetchOrder(
            PinnedFile(key, key, len(content), '"e"', None),
            store.staging_file(f"sync/{key}"),
            lambda _: None,
            take_room=room.take,
        )
        for key, content in contents.by_key.items()
    ]


def test_a_version_twice_as_large_as_the_disk_goes_through_it_into_the_bucket(
    store: BucketStore,
) -> None:
    contents, room, digests = Contents(), Room(store, 0.0), dict[str, str]()

    def finished(wholes: Sequence[Whole]) -> None:
        store.publish_blobs({whole.staged: whole.digest for whole in wholes})
        digests.update({whole.file.key: whole.digest for whole in wholes})

    orders = orders_of(store, contents, room)
    room.take_first(orders)
    pulse = Pulse(time.monotonic)
    fetch(contents, orders, pulse, workers=4, tries_max=1, finished=finished)
    for key, content in contents.by_key.items():
        with store.open_blob(digests[key]) as body:
            assert body.read(FILE_BYTES + 1) == content
    local = store._local
    assert isinstance(local, SmallDisk)
    assert local.least_free_bytes >= 0
    assert len(list(local.blobs())) < FILES


def test_the_largest_file_must_fit_and_the_refusal_says_so(store: BucketStore) -> None:
    room = Room(store, 0.0)
    orders = orders_of(store, Contents(), room)
    local = store._local
    assert isinstance(local, SmallDisk)
    local.capacity_bytes = FILE_BYTES // 2
    with pytest.raises(SourceError, match="largest file of these weights") as refusal:
        room.take_first(orders)
    assert refusal.value.code == "DISK_FULL"
