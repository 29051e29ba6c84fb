"""The weight store in a real bucket over HTTP, and a node's cache of it (W1, W2, W7, W8, W11)."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from threading import Thread

import pytest
from installation import ANSWERS, installed

from s3 import S3Server, running_s3
from safetensors_files import safetensors_file
from weighbridge.errors import NotFoundError, UnavailableError
from weighbridge.weights.base import MissingBlobError
from weighbridge.weights.bucket.collection import blob_key
from weighbridge.weights.bucket.objects import Body, Bucket
from weighbridge.weights.bucket.store import BucketStore
from weighbridge.weights.bucket.transfer import PART_BYTES_MIN
from weighbridge.weights.diff.compare import Change, compare, tensors_of
from weighbridge.weights.diff.reconciler import TensorDigestReconciler
from weighbridge.weights.diff.shelf import TensorShelf
from weighbridge.weights.digest import content_digest, file_digest
from weighbridge.weights.filesystem import FilesystemStore
from weighbridge.weights.manifest import FileEntry, Manifest
from weighbridge.weights.node.cache import NodeCache
from weighbridge.weights.node.marks import LoadMarks
from weighbridge.weights.node.versions import NodeVersions
from weighbridge.weights.tensors import TensorSpec

pytestmark = pytest.mark.system

LIMIT_S = 30.0
BIG = os.urandom(1024 * 1024) * (PART_BYTES_MIN // 1024 // 1024 + 1)
HALF = BIG[: len(BIG) * 3 // 5]


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with running_s3() as server:
        yield server


class CountingBucket(Bucket):
    opened = 0

    def open(self, key: str, start: int = 0, end: int | None = None) -> Body:
        self.opened += key.startswith("blobs/")
        return super().open(key, start, end)


class SmallDisk(FilesystemStore):
    capacity_bytes = 1 << 40

    def free_bytes(self) -> int:
        return self.capacity_bytes - sum(blob.size_bytes for blob in self.blobs())

    def total_bytes(self) -> int:
        return self.capacity_bytes


class Node:
    """A machine with a cache of its own."""

    def __init__(self, s3: S3Server, bucket: str, root: Path, *, url: str = "") -> None:
        self.bucket = CountingBucket(
            bucket, "weights", endpoint_url=url or s3.endpoint_url, access_key=s3.owner_key
        )
        self.marks = LoadMarks(root / "marks")
        self.local = SmallDisk(root / "store", self.marks)
        self.in_use: set[str] = set()
        self.cache = NodeCache(self.local, in_use=lambda: self.in_use, free_min_share=0.0)
        self.store = BucketStore(self.bucket, self.cache, str(root))

    def publish(self, files: Mapping[str, bytes]) -> Manifest:
        staged, entries = {}, []
        for number, (name, content) in enumerate(files.items()):
            path = self.store.staging_file(f"sync/{number}")
            path.write_bytes(content)
            staged[path] = content_digest(content)
            entries.append(FileEntry(name, len(content), staged[path]))
        self.store.publish_blobs(staged)
        manifest = Manifest.of(entries)
        assert self.store.publish(manifest) == manifest.digest
        return manifest

    def assert_serves(self, files: Mapping[str, bytes], manifest: Manifest) -> None:
        directory = self.store.version_dir(manifest.digest)
        for name, content in files.items():
            assert (directory / name).read_bytes() == content


Machines = Callable[..., Node]


@pytest.fixture
def node(s3: S3Server, tmp_path: Path, request: pytest.FixtureRequest) -> Machines:
    """Machines of one operator's bucket, which is this test's own."""
    bucket = f"store-{abs(hash(request.node.name)) % 10**9}"
    s3.create_bucket(bucket)
    return lambda name="one", **more: Node(s3, bucket, tmp_path / name, **more)


def test_what_one_node_publishes_another_serves_from_its_own_cache(node: Machines) -> None:
    files = {"config.json": b"{}", "empty": b"", "model.safetensors": BIG}
    one, two = node("one"), node("two")
    manifest = one.publish(files)
    assert two.store.published() == {manifest.digest}
    assert two.store.manifest(manifest.digest) == manifest
    two.assert_serves(files, manifest)
    opened = two.bucket.opened
    two.assert_serves(files, manifest)
    assert two.bucket.opened == opened
    one.assert_serves(files, manifest)
    assert one.bucket.opened == 0, "what a node has written it need not fetch"


async def test_any_node_hashes_and_compares_the_tensors_of_what_another_published(
    node: Machines,
) -> None:
    one, two, three = node("one"), node("two"), node("three")
    specs = [TensorSpec("w", "F32", (4,))]
    before, after = (
        one.publish({"m.safetensors": safetensors_file(specs, fill=fill)}) for fill in (1, 2)
    )
    hashing = TensorDigestReconciler(two.store, TensorShelf(two.store.tensor_notes))
    while await hashing.reconcile() == 0.0:
        pass
    await hashing.close()
    shelf = TensorShelf(three.store.tensor_notes)
    tensors = [tensors_of(three.store, shelf, manifest.digest) for manifest in (before, after)]
    found = compare(tensors[0], tensors[1], three.store.read_blob, lambda: 0.0)
    assert [(change.name, change.change) for change in found.changes] == [("w", Change.CHANGED)]
    assert found.measured == 1
    assert list(three.local.blobs()) == [], "a comparison reads what it needs, no whole version"
    one.store.delete_version(before.digest)
    again = TensorDigestReconciler(two.store, shelf)
    await again.reconcile()
    await again.close()
    assert shelf.known() == {entry.digest for entry in after.files}


def test_a_blob_is_sent_once_and_only_as_what_it_is(node: Machines) -> None:
    one = node()
    staged = one.store.staging_file("sync/x")
    staged.write_bytes(BIG[:-1] + b"?")
    with pytest.raises(OSError, match="reads as"):
        one.store.publish_blobs({staged: content_digest(BIG)})
    assert not one.store.has_blob(content_digest(BIG))
    assert list(one.bucket.unfinished_uploads(0)) == []
    one.publish({"a": b"same"})
    before = one.bucket.head(blob_key(content_digest(b"same")))
    time.sleep(1.1)  # the bucket tells times in whole seconds
    node("two").publish({"b": b"same"})
    after = one.bucket.head(blob_key(content_digest(b"same")))
    assert before is not None
    assert after is not None
    assert after.age_s > before.age_s


def test_a_manifest_is_published_only_over_whole_blobs(node: Machines) -> None:
    one = node()
    one.publish({"a": b"a"})
    for size in (1, 2):
        manifest = Manifest((FileEntry("a", size, content_digest(b"a" if size == 2 else b"b")),))
        with pytest.raises(MissingBlobError):
            one.store.publish(manifest)
        with pytest.raises(NotFoundError):
            one.store.version_dir(manifest.digest)


def test_what_is_used_longest_ago_makes_room_and_what_a_replica_uses_stays(node: Machines) -> None:
    one, two = node("one"), node("two")
    contents = [bytes([number]) * 1000 for number in range(4)]
    first, second, third, fourth = (one.publish({"w": content}) for content in contents)
    two.local.capacity_bytes = 2500
    two.in_use = {first.digest}
    two.assert_serves({"w": contents[0]}, first)
    two.assert_serves({"w": contents[1]}, second)
    two.cache._handed_out.clear()
    two.assert_serves({"w": contents[2]}, third)
    assert two.local.published() == {first.digest, third.digest}
    two.in_use = {first.digest, third.digest}
    with pytest.raises(OSError, match="in use"):
        two.store.version_dir(fourth.digest)
    assert two.local.published() == {first.digest, third.digest}
    two.in_use = set()
    two.cache._handed_out.clear()
    two.assert_serves({"w": contents[3]}, fourth)
    two.assert_serves({"w": contents[1]}, second)


def test_a_sync_finds_room_that_the_cache_had(node: Machines) -> None:
    one = node()
    manifest = one.publish({"w": b"x" * 1000})
    one.local.capacity_bytes = 1500
    one.store.make_room(1200)
    assert one.local.free_bytes() == 1500
    one.assert_serves({"w": b"x" * 1000}, manifest)


def test_two_fillers_of_one_version_fetch_each_blob_once(node: Machines) -> None:
    files = {"a": HALF, "b": b"b" * 1000}
    manifest = node("one").publish(files)
    fillers = [node("two"), node("two")]
    threads = [Thread(target=each.assert_serves, args=(files, manifest)) for each in fillers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    parts = -(-len(HALF) // (16 * 1024 * 1024)) + 1
    assert sum(each.bucket.opened for each in fillers) == parts
    assert not list((fillers[0].local.version_path("x").parents[1] / "staging").iterdir())


_FILLER = """
import sys
from pathlib import Path
from weighbridge.weights.node.cache import NodeCache
from weighbridge.weights.bucket.objects import Bucket
from weighbridge.weights.bucket.store import BucketStore
from weighbridge.weights.filesystem import FilesystemStore

url, bucket, key, secret, root, digest = sys.argv[1:]
local = FilesystemStore(Path(root) / "store")
cache = NodeCache(local, in_use=lambda: (), free_min_share=0.0)
store = BucketStore(Bucket(bucket, "weights", endpoint_url=url, access_key=(key, secret)), cache, "filler")
print("filling", flush=True)
store.version_dir(digest)
"""


def test_a_filling_that_is_killed_leaves_nothing_that_is_served(
    node: Machines, s3: S3Server, tmp_path: Path
) -> None:
    files = {"a": HALF, "b": b"b" * 1000}
    one = node("one")
    manifest = one.publish(files)
    staged = tmp_path / "two/store/staging" / f"tmp-fill-{content_digest(HALF)}"
    words = [s3.endpoint_url, one.bucket.name, *s3.owner_key, str(tmp_path / "two")]
    child = subprocess.Popen([sys.executable, "-c", _FILLER, *words, manifest.digest])
    limit = time.monotonic() + LIMIT_S
    while not staged.exists():
        assert child.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    two = node("two")
    assert two.local.published() == set()
    assert all(file_digest(two.local.blob_path(b.digest)) == b.digest for b in two.local.blobs())
    two.assert_serves(files, manifest)
    assert not staged.exists()


def test_a_blob_that_is_damaged_in_the_bucket_is_never_served_and_heals(node: Machines) -> None:
    one, two = node("one"), node("two")
    manifest = one.publish({"a": b"good bytes", "b": b"b"})
    sound = one.publish({"b": b"b"})
    digest = content_digest(b"good bytes")
    two.bucket.put(blob_key(digest), b"bad bytes!")
    with pytest.raises(NotFoundError):
        two.store.version_dir(manifest.digest)
    assert two.store.withdrawn() == {manifest.digest}
    assert [damage.digest for damage in one.store.damages()] == [digest]
    assert one.store.published() == {sound.digest}
    assert not one.store.has_blob(digest)
    assert one.store.collect_blobs(age_min_s=0) == 0, "the rest of it stays"
    one.publish({"a": b"good bytes"})
    assert one.store.damages() == []
    two.assert_serves({"a": b"good bytes", "b": b"b"}, manifest)


def test_collection_takes_what_nobody_names_or_leases(node: Machines) -> None:
    one = node()
    kept, gone = one.publish({"a": b"kept"}), one.publish({"a": b"gone"})
    leased = {content_digest(b"leased")}
    one.store.put_bytes(b"leased")
    one.store.delete_version(gone.digest)
    with pytest.raises(NotFoundError):
        one.store.version_dir(gone.digest)
    assert one.store.collect_blobs(leased=lambda: leased) == 0, "they are young"
    assert one.store.collect_blobs(age_min_s=0, leased=lambda: leased) == 1
    assert {blob.digest for blob in one.store.blobs()} == {kept.files[0].digest, *leased}
    assert one.store.collect_blobs(age_min_s=0) == 1


@pytest.mark.parametrize("question", [1, 2])
def test_who_leases_first_and_looks_second_never_counts_on_a_blob_that_goes(
    question: int, node: Machines
) -> None:
    """The lease comes at the worst moments: between a collector's first look and its last question."""
    one = node()
    digest, _ = one.store.put_bytes(b"wanted")
    leases: set[str] = set()
    seen: list[bool] = []
    asked = 0

    def leased() -> Collection[str]:
        nonlocal asked
        asked += 1
        answer = set(leases)
        if asked == question:
            leases.add(digest)
            seen.append(one.store.has_blob(digest))
        return answer

    one.store.collect_blobs(age_min_s=0, leased=leased)
    # Condemned before the second question, so who looks then is told to write it again.
    assert seen == [question == 1]
    assert one.store.has_blob(digest) == seen[0]
    if not seen[0]:
        one.publish({"a": b"wanted"})
        assert one.store.has_blob(digest)


def test_without_the_bucket_a_node_starts_what_it_has(node: Machines) -> None:
    files = {"a": b"a"}
    manifest = node("one").publish(files)
    node("two").assert_serves(files, manifest)
    away = node("two", url="http://127.0.0.1:9")
    away.assert_serves(files, manifest)
    with pytest.raises(OSError, match="bucket of the weight store"):
        node("three", url="http://127.0.0.1:9").store.version_dir(manifest.digest)


def version_dir(versions: NodeVersions, digest: str) -> Path:
    limit = time.monotonic() + LIMIT_S
    while True:
        try:
            return versions.version_dir(digest)
        except UnavailableError:
            assert time.monotonic() < limit


def test_a_copy_that_rots_on_a_node_is_brought_again_before_it_is_loaded(node: Machines) -> None:
    one = node()
    manifest = one.publish({"a": b"good bytes"})
    versions = NodeVersions(one.store, one.marks)
    path = version_dir(versions, manifest.digest) / "a"
    path.chmod(0o644)
    path.write_bytes(b"bad bytes!")
    assert (version_dir(versions, manifest.digest) / "a").read_bytes() == b"good bytes"
    assert one.store.damages() == []
    versions.close()


def test_a_version_is_served_from_the_bucket_after_its_node_has_lost_it(
    s3: S3Server, public_tmp_path: Path
) -> None:
    """Upload, sync, bucket, cache, llama.cpp: all real; between sync and deployment the cache is emptied."""
    s3.create_bucket("operators-store")
    settings = {
        "WEIGHBRIDGE_STORE_URL": "s3://operators-store/weights",
        "WEIGHBRIDGE_STORE_ENDPOINT_URL": s3.endpoint_url,
        "WEIGHBRIDGE_STORE_ACCESS_KEY_ID": s3.owner_key[0],
        "WEIGHBRIDGE_STORE_SECRET_ACCESS_KEY": s3.owner_key[1],
    }
    with installed(public_tmp_path, s3, **settings) as site:
        site.prepare(replicas=1)
        cache = public_tmp_path / "data/store"
        for lost in ("blobs", "versions", "manifests"):
            for path in (cache / lost).iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        site.deploy(1)
        with site.client() as client:
            assert site.say(client) == ANSWERS[1]
        listed = s3.customer.list_objects_v2(Bucket="operators-store", Prefix="weights/manifests/")
        assert listed["KeyCount"] == 3, "the base model's files and two versions"
        assert len(list((cache / "versions").iterdir())) == 1
        for text in site.logs().values():
            assert s3.owner_key[1] not in text
