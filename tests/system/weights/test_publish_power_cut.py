"""A power cut at any instant of a publication: what is said to be done is whole, and the rest can be done again (W2).

What the store does to the file system is recorded as it happens. Each prefix of it is then played again on a disk
that forgets: a name counts only once its directory was fsynced, bytes only once their file was, and all else is
kept or lost at will, names one by one and contents whole, in half or not at all.
"""

import os
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from weighbridge.errors import NotFoundError
from weighbridge.weights import filesystem
from weighbridge.weights.digest import content_digest, file_digest
from weighbridge.weights.disk import durable
from weighbridge.weights.filesystem import FilesystemStore
from weighbridge.weights.manifest import FileEntry, Manifest

pytestmark = pytest.mark.system

MEMORY = Path("/dev/shm")
SUBSETS_PER_CUT = 3
SEED = 20260101

Entry = tuple[int, str]
"""A name in a directory, which is known by its inode."""


@dataclass(frozen=True)
class Tree:
    entries: Mapping[Entry, int]
    contents: Mapping[int, bytes]
    directories: frozenset[int]


@dataclass(frozen=True)
class Change:
    """Names that came and went in one call: all of them survive, or none."""

    removed: frozenset[Entry]
    added: Mapping[Entry, int]

    @property
    def directories(self) -> set[int]:
        return {directory for directory, _ in {*self.removed, *self.added}}


@dataclass(frozen=True)
class Moment:
    """One recorded step: a change, or the inode that was fsynced (0: the whole file system), and the tree after."""

    change: Change | None
    synced: int | None
    tree: Tree


@dataclass
class Recording:
    root: Path
    moments: list[Moment] = field(default_factory=list)
    last: Tree = field(init=False)
    first: Tree = field(init=False)

    def __post_init__(self) -> None:
        self.first = self.last = scan(self.root)

    def look(self, synced: int | None = None) -> None:
        tree = scan(self.root)
        before, after = self.last.entries, tree.entries
        added = {name: ino for name, ino in after.items() if before.get(name) != ino}
        removed = frozenset(name for name in before if name not in after)
        if added or removed:
            self.moments.append(Moment(Change(removed, added), None, tree))
        if synced is not None:
            self.moments.append(Moment(None, synced, tree))
        self.last = tree


def scan(root: Path) -> Tree:
    entries: dict[Entry, int] = {}
    contents: dict[int, bytes] = {}
    directories = {root.stat().st_ino}
    for parent, folders, files in os.walk(root):
        ino = os.stat(parent).st_ino  # noqa: PTH116 - many of them
        for name in folders:
            entries[ino, name] = found = (Path(parent) / name).stat().st_ino
            directories.add(found)
        for name in files:
            path = Path(parent) / name
            entries[ino, name] = found = path.stat().st_ino
            contents[found] = path.read_bytes()
    return Tree(entries, contents, frozenset(directories))


@contextmanager
def recorded(root: Path) -> Iterator[Recording]:
    """Every call that changes names, and every sync, is a moment."""
    recording = Recording(root)

    def watched(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            recording.look()
            try:
                return real(*arguments, **more)
            finally:
                recording.look()

        return call

    def fsync(descriptor: int) -> None:
        recording.look(synced=os.fstat(descriptor).st_ino)

    def sync_all(path: Path) -> None:
        recording.look(synced=0)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("replace", "rename", "link", "mkdir", "unlink", "rmdir"):
            patch.setattr(os, name, watched(getattr(os, name)))
        patch.setattr(os, "fsync", fsync)
        for module in (durable, filesystem):
            patch.setattr(module, "sync_file_system", sync_all)
        yield recording
    recording.look()


def disks(recording: Recording, cut: int, chance: random.Random) -> Iterator[Tree]:
    """What may be found after a cut once `cut` moments have passed."""
    kept = dict(recording.first.entries)
    safe = dict(recording.first.contents)
    pending: list[Change] = []
    tree = recording.first
    for moment in recording.moments[:cut]:
        tree = moment.tree
        if moment.change is not None:
            pending.append(moment.change)
        elif moment.synced == 0 or moment.synced in tree.directories:
            for change in list(pending):
                if moment.synced in {0, *change.directories}:
                    apply(kept, change)
                    pending.remove(change)
            if moment.synced == 0:
                safe |= tree.contents
        elif moment.synced is not None:
            safe[moment.synced] = tree.contents.get(moment.synced, b"")
    yield from spoiled(recording, cut, kept=kept, safe=safe, pending=pending, chance=chance)


def spoiled(recording, cut, *, kept, safe, pending, chance) -> Iterator[Tree]:
    """The disks that keep what is safe, and of the rest what chance leaves."""
    directories = recording.first.directories.union(
        *(moment.tree.directories for moment in recording.moments[:cut])
    )
    seen = {
        ino: content
        for one in recording.moments[:cut]
        for ino, content in one.tree.contents.items()
    }
    torn: tuple[Callable[[bytes], bytes], ...] = (
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content,
    )
    subsets = [[], pending, pending]
    subsets += [[c for c in pending if chance.random() < 0.5] for _ in range(SUBSETS_PER_CUT)]
    for number, subset in enumerate(subsets):
        entries = dict(kept)
        for change in subset:
            apply(entries, change)
        contents = {}
        for ino, content in seen.items():
            spoil = torn[number] if number < len(torn) else chance.choice(torn)
            contents[ino] = content if safe.get(ino) == content else spoil(content)
        yield Tree(entries, contents, directories)


def apply(entries: dict[Entry, int], change: Change) -> None:
    for name in change.removed:
        entries.pop(name, None)
    entries.update(change.added)


def write_out(tree: Tree, directories: frozenset[int], root_ino: int, root: Path) -> None:
    """Make the disk's tree below `root`, hard links as hard links."""
    written: dict[int, Path] = {}
    left = [(root_ino, root)]
    while left:
        ino, path = left.pop()
        path.mkdir(exist_ok=True)
        for (parent, name), child in tree.entries.items():
            if parent != ino:
                continue
            if child in directories:
                left.append((child, path / name))
            elif child in written:
                (path / name).hardlink_to(written[child])
            else:
                (path / name).write_bytes(tree.contents.get(child, b""))
                written[child] = path / name


def publication(root: Path, files: Mapping[str, bytes], index: bytes) -> Manifest:
    """As a sync publishes: staged files become blobs, then the index, then the manifest."""
    store = FilesystemStore(root)
    staged, entries = {}, []
    for name, content in files.items():
        digest = content_digest(content)
        entries.append(FileEntry(name, len(content), digest))
        if store.has_blob(digest):
            continue
        path = store.staging_file(f"version/{name}")
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        staged[path] = digest
    store.publish_blobs(staged)
    digest, size = store.put_bytes(index)
    manifest = Manifest.of([*entries, FileEntry("index.json", size, digest)])
    store.publish(manifest)
    return manifest


def assert_whole(store: FilesystemStore, manifest: Manifest) -> None:
    directory = store.version_dir(manifest.digest)
    assert store.manifest(manifest.digest) == manifest
    for entry in manifest.files:
        assert file_digest(directory / entry.path) == entry.digest
        assert file_digest(store.blob_path(entry.digest)) == entry.digest


@pytest.mark.parametrize("shards", [2, 8], ids=["few large files", "many at once"])
def test_after_a_power_cut_done_is_whole_and_the_rest_can_be_done_again(
    shards: int, tmp_path: Path
) -> None:
    files = {f"{number}.safetensors": b"%d weights" % number * 40 for number in range(shards)}
    parent = MEMORY if MEMORY.is_dir() else tmp_path
    chance = random.Random(SEED)
    base = parent / f"cut-{os.getpid()}-{shards}"
    root = base / "store"
    root.mkdir(parents=True)
    try:
        with recorded(root) as recording:
            manifest = publication(root, files, b"{}")
        directories = frozenset(d for one in recording.moments for d in one.tree.directories)
        directories |= recording.first.directories
        root_ino, cuts = root.stat().st_ino, 0
        for cut in range(len(recording.moments) + 1):
            for disk in disks(recording, cut, chance):
                after = base / f"after-{cuts}"
                write_out(disk, directories, root_ino, after)
                check(after, manifest, files, done=cut == len(recording.moments))
                durable.remove(after)
                cuts += 1
        assert cuts > 200
    finally:
        durable.remove(base)


def check(root: Path, manifest: Manifest, files: Mapping[str, bytes], *, done: bool) -> None:
    store = FilesystemStore(root)
    for blob in store.blobs():
        # Who finds a blob uses it, so there must be none but whole ones.
        assert file_digest(store.blob_path(blob.digest)) == blob.digest
    try:
        store.version_dir(manifest.digest)
    except NotFoundError:
        assert not done
    else:
        assert_whole(store, manifest)
    assert publication(root, files, b"{}") == manifest
    assert_whole(store, manifest)
