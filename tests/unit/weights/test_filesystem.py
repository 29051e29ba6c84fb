"""The weight store: nothing visible before it is whole, nothing removed that is named (W1, W2, W7, W8)."""

import os
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from blake3 import blake3

from weighbridge.errors import InvalidError, NotFoundError
from weighbridge.weights.base import MissingBlobError
from weighbridge.weights.digest import HASH_PART_BYTES, combine, content_digest, file_digest
from weighbridge.weights.disk.verification import hash_at_rate
from weighbridge.weights.filesystem import FilesystemStore
from weighbridge.weights.manifest import MANIFEST_FILE, FileEntry, Manifest


@pytest.fixture
def store(tmp_path: Path) -> FilesystemStore:
    return FilesystemStore(tmp_path)


def published(store: FilesystemStore, files: Mapping[str, bytes]) -> Manifest:
    entries = [(name, *store.put_bytes(content)) for name, content in files.items()]
    manifest = Manifest.of(FileEntry(name, size, digest) for name, digest, size in entries)
    assert store.publish(manifest) == manifest.digest
    return manifest


def test_a_published_version_is_a_directory_of_read_only_links(store: FilesystemStore) -> None:
    manifest = published(store, {"config.json": b"{}", "sub/a.bin": b"x" * 100})
    directory = store.version_dir(manifest.digest)
    assert (directory / "sub" / "a.bin").read_bytes() == b"x" * 100
    assert (directory / MANIFEST_FILE).read_bytes() == manifest.encode()
    entry = manifest.by_path()["config.json"]
    assert (directory / "config.json").samefile(store.blob_path(entry.digest))
    assert (directory / "config.json").stat().st_mode & 0o777 == 0o444
    assert store.manifest(manifest.digest) == manifest
    assert store.staging_owners() == set()


def test_what_is_not_published_is_not_there(store: FilesystemStore) -> None:
    for ask in (store.manifest, store.version_dir):
        with pytest.raises(NotFoundError) as refusal:
            ask("0" * 64)
        assert refusal.value.code == "weights_missing"


def test_a_manifest_that_names_a_missing_blob_publishes_nothing(store: FilesystemStore) -> None:
    manifest = Manifest((FileEntry("a", 1, "1" * 64),))
    with pytest.raises(MissingBlobError):
        store.publish(manifest)
    assert store.published() == set()
    with pytest.raises(NotFoundError):
        store.version_dir(manifest.digest)


def test_a_directory_without_its_manifest_is_not_a_version_until_published_again(
    store: FilesystemStore, tmp_path: Path
) -> None:
    manifest = published(store, {"a": b"a"})
    (tmp_path / "manifests" / f"{manifest.digest}.json").unlink()
    with pytest.raises(NotFoundError):
        store.version_dir(manifest.digest)
    store.publish(manifest)
    assert store.version_dir(manifest.digest).is_dir()


def test_publishing_again_and_the_same_blob_again_change_nothing(store: FilesystemStore) -> None:
    manifest = published(store, {"a": b"a"})
    blob = store.blob_path(manifest.files[0].digest)
    inode = blob.stat().st_ino
    assert published(store, {"a": b"a"}) == manifest
    staged = store.staging_file("someone/a")
    staged.write_bytes(b"a")
    store.publish_blob(staged, manifest.files[0].digest)
    assert blob.stat().st_ino == inode
    assert not staged.exists()


def test_deleting_a_version_leaves_blobs_that_another_names(store: FilesystemStore) -> None:
    first = published(store, {"shared": b"s", "own": b"1"})
    second = published(store, {"shared": b"s", "own": b"2"})
    store.delete_version(first.digest)
    store.delete_version(first.digest)
    assert store.published() == {second.digest}
    assert store.has_blob(second.by_path()["shared"].digest)
    assert not store.has_blob(first.by_path()["own"].digest)
    assert (store.version_dir(second.digest) / "shared").read_bytes() == b"s"


def test_collection_takes_only_old_blobs_that_no_manifest_names(store: FilesystemStore) -> None:
    manifest = published(store, {"a": b"a"})
    orphan, _ = store.put_bytes(b"orphan")
    assert store.collect_blobs(age_min_s=60) == 0
    assert store.collect_blobs(age_min_s=0) == 1
    assert not store.has_blob(orphan)
    assert store.has_blob(manifest.files[0].digest)


def test_the_sweep_leaves_live_owners_and_new_temporary_things(store: FilesystemStore) -> None:
    for owner in ("live", "dead"):
        store.staging_file(f"{owner}/part").write_bytes(b"x")
    fresh, old = store.staging_file("tmp-fresh"), store.staging_file("tmp-old")
    for path in (fresh, old):
        path.write_bytes(b"x")
    os.utime(old, (0, 0))
    store.sweep_staging({"live"})
    assert store.staging_owners() == {"live"}
    assert fresh.exists()
    assert not old.exists()


@pytest.mark.parametrize("size", [0, 1, HASH_PART_BYTES, HASH_PART_BYTES + 1])
def test_a_files_digest_is_that_of_its_parts(size: int, tmp_path: Path) -> None:
    content = (b"0123456789" * (size // 10 + 1))[:size]
    path = tmp_path / "file"
    path.write_bytes(content)
    parts = [content[at : at + HASH_PART_BYTES] for at in range(0, size, HASH_PART_BYTES)]
    expected = combine([blake3(part).digest() for part in parts])
    assert file_digest(path) == content_digest(content) == expected


def test_a_manifests_digest_is_of_its_canonical_bytes() -> None:
    entries = [FileEntry("b", 2, "b" * 64), FileEntry("a", 1, "a" * 64)]
    manifest = Manifest.of(entries)
    first = f'{{"path":"a","size":1,"digest":"{entries[1].digest}"}}'
    second = f'{{"path":"b","size":2,"digest":"{entries[0].digest}"}}'
    expected = f'{{"files":[{first},{second}]}}'.encode()
    assert manifest.encode() == expected
    assert manifest.digest == blake3(expected).hexdigest()
    assert Manifest.decode(expected) == manifest
    assert manifest.size_bytes == 3


@pytest.mark.parametrize(
    "path", ["../a", "/a", "a//b", "a/.git", ".", "", "a\0", "é", MANIFEST_FILE]
)
def test_a_manifest_takes_no_path_that_leaves_its_directory(path: str) -> None:
    with pytest.raises(InvalidError):
        FileEntry(path, 1, "a" * 64)


def test_a_manifest_takes_no_file_that_is_also_a_folder() -> None:
    entries = [FileEntry("a", 1, "a" * 64), FileEntry("a/b", 1, "b" * 64)]
    with pytest.raises(InvalidError):
        Manifest.of(entries)


def test_many_small_blobs_are_published_at_once(store: FilesystemStore) -> None:
    contents = [b"%d" % (number // 2) for number in range(40)]
    staged = {}
    for number, content in enumerate(contents):
        path = store.staging_file(f"someone/{number}")
        path.write_bytes(content)
        staged[path] = content_digest(content)
    store.publish_blobs(staged)
    store.publish_blobs(staged)
    for path, digest in staged.items():
        assert not path.exists()
        assert store.blob_path(digest).stat().st_mode & 0o777 == 0o444
        assert file_digest(store.blob_path(digest)) == digest


def test_a_lock_is_one_holders_at_a_time(store: FilesystemStore) -> None:
    first = store.locks.attempt("name")
    assert first is not None
    assert FilesystemStore(store.blob_path("0" * 64).parents[2]).locks.attempt("name") is None
    first.release()
    with store.locks.holding("name"):
        assert store.locks.attempt("name", kind="brief") is None
        other = store.locks.attempt("name")
        assert other is not None, "who holds one kind keeps nobody from another"
        other.release()


def test_a_blob_that_rots_is_quarantined_and_its_versions_withdrawn_until_synced_again(
    store: FilesystemStore,
) -> None:
    rotten = published(store, {"shared": b"s", "bad": b"good bytes"})
    also = published(store, {"other": b"o", "bad": b"good bytes"})
    sound = published(store, {"shared": b"s"})
    digest = rotten.by_path()["bad"].digest
    blob = store.blob_path(digest)
    blob.chmod(0o644)
    blob.write_bytes(b"bad bytes!")
    due = store.verifications.due(store.blobs(), before=time.time() + 1)
    found = {}
    for item in due:
        with store.open_blob(item.digest) as content:
            found[item.digest] = hash_at_rate(content, 1e12, lambda _: None)
    wrong = [expected for expected, actual in found.items() if expected != actual]
    assert wrong == [digest]

    store.take_away(digest, found[digest])
    with pytest.raises(NotFoundError):
        store.version_dir(rotten.digest)
    assert store.version_dir(sound.digest).is_dir()
    assert [damage.versions for damage in store.quarantine.damages()] == [
        sorted([rotten.digest, also.digest])
    ]
    # The rest of the withdrawn version stays, so that little is fetched again.
    assert store.collect_blobs(age_min_s=0) == 0

    assert published(store, {"shared": b"s", "bad": b"good bytes"}) == rotten
    assert (store.version_dir(rotten.digest) / "bad").read_bytes() == b"good bytes"
    assert (store.version_dir(also.digest) / "bad").read_bytes() == b"good bytes"
    assert store.quarantine.damages() == []


def test_what_is_verified_is_due_again_only_later_or_when_asked(store: FilesystemStore) -> None:
    digest, _ = store.put_bytes(b"x")
    verifications = store.verifications
    began = time.time()
    verifications.note(digest)
    assert verifications.due(store.blobs(), before=began - 1) == []
    assert [due.digest for due in verifications.due(store.blobs(), before=began + 5)] == [digest]
    assert verifications.asked_s() == 0
    verifications.ask()
    assert verifications.asked_s() >= began - 1


@pytest.mark.parametrize("size", [0, 1, HASH_PART_BYTES, HASH_PART_BYTES + 1])
def test_hashing_at_a_rate_is_hashing_no_faster(size: int, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * size)
    now = 0.0

    def pause(seconds: float) -> None:
        nonlocal now
        now += seconds

    with path.open("rb") as content:
        digest = hash_at_rate(content, 1_000_000, pause, lambda: now)
    assert digest == file_digest(path)
    assert now >= size / 1_000_000 * 0.999
