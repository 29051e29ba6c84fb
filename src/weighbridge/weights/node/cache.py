"""A node's cache of a weight store that lies elsewhere: blobs brought here, verified, and dropped for others.

It is a `FilesystemStore` of its own, so a version is presented as a directory of hard links and nothing is
visible before it is whole. Dropped is what was used longest ago, and never what a running replica uses.
"""

import contextlib
import errno
import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from threading import Event, Lock

import structlog

from weighbridge.errors import NotFoundError
from weighbridge.weights.base import MissingBlobError
from weighbridge.weights.disk.space import allocate, allocated_bytes
from weighbridge.weights.filesystem import TEMPORARY_PREFIX, FilesystemStore
from weighbridge.weights.manifest import FileEntry, Manifest
from weighbridge.weights.node.fetch import (
    JOURNAL_SUFFIX,
    PARTS_PARALLEL,
    Buffers,
    WrongBytesError,
    fetch_blob,
    forget_parts,
)
from weighbridge.weights.node.source import BlobSource, Check, StoppedError

log = structlog.get_logger()

HANDED_OUT_S = 60.0
"""A version that was given to somebody is kept this long, until a row says that it is used."""
FETCHES_MAX = 3
"""Of a blob that does not arrive as what it is."""
EVICTIONS_MAX = 10_000
TURN_POLL_S = 0.05
FILL_PREFIX = f"{TEMPORARY_PREFIX}fill-"

Digests = Callable[[], Collection[str]]
Told = Callable[[int], None]


def nobody() -> Collection[str]:
    return ()


def silently(_count: int) -> None:
    """Nobody asked."""


class NodeCache:
    """Blocking, for many threads and processes of one node.

    `in_use` gives the manifests that replicas of this node use or are to use, `wanted` the blobs that other
    processes bring meanwhile. `unused` keeps other processes from beginning to use a version while it goes, and
    `dropped` is told when it has. `bytes_max` is the most that may lie here; 0: what the disk allows.
    """

    def __init__(
        self,
        local: FilesystemStore,
        *,
        in_use: Digests,
        free_min_share: float,
        wanted: Digests = nobody,
        bytes_max: int = 0,
        unused: Callable[[str], AbstractContextManager[bool]] = lambda _: nullcontext(True),
        dropped: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.local = local
        self._in_use = in_use
        self._wanted_elsewhere = wanted
        self._free_min_share = free_min_share
        self._bytes_max = bytes_max
        self._unused = unused
        self._dropped = dropped
        self._handed_out: dict[str, float] = {}
        self._wanted: Counter[str] = Counter()
        self._lock = Lock()
        self._stopped = Event()

    def stop(self) -> None:
        self._stopped.set()

    def hold(self, digest: str) -> None:
        """The version was given to somebody just now."""
        now = time.monotonic()
        with self._lock:
            self._handed_out = {k: at for k, at in self._handed_out.items() if at > now}
            self._handed_out[digest] = now + HANDED_OUT_S
        with contextlib.suppress(FileNotFoundError):
            os.utime(self.local.version_path(digest))

    def fill(
        self,
        manifest: Manifest,
        source: BlobSource,
        *,
        check: Check = lambda: None,
        came: Told = silently,
        found: Told = silently,
    ) -> None:
        """Bring what is missing and present the version; WrongBytesError for a blob that is damaged in the source.

        `came` is told the bytes that come, `found` those that are here already; `check` may raise to stop.
        """

        def going() -> None:
            self._check()
            check()

        with self._wanting(manifest):
            with self.local.locks.holding("reserve"):
                missing = {e.digest: e for e in manifest.files if not self._has(e)}
                self.make_room(sum(self._still_to_take(entry) for entry in missing.values()))
                for entry in missing.values():
                    allocate(self._staged(entry), entry.size_bytes)
            here = {e.digest: e.size_bytes for e in manifest.files if e.digest not in missing}
            found(sum(here.values()))
            buffers = Buffers(PARTS_PARALLEL)
            for entry in missing.values():
                # One filler per blob among all processes here; whoever waited finds it done.
                with self._turn(entry, going):
                    if self._has(entry):
                        _drop_staged(self._staged(entry))
                        found(entry.size_bytes)
                    else:
                        self._fetch(entry, source, buffers, check=going, came=came, found=found)
            self.local.publish(manifest)
            self.hold(manifest.digest)
        if missing:
            size = sum(entry.size_bytes for entry in missing.values())
            log.info("cache.filled", digest=manifest.digest, blobs=len(missing), bytes=size)

    def make_room(self, needed_bytes: int) -> None:
        """Drop what was used longest ago until there is room; OSError ENOSPC when all that is left is in use."""
        for drop in self._droppable():
            if self._room_bytes() >= needed_bytes:
                return
            drop()
        if (room := self._room_bytes()) < needed_bytes:
            raise OSError(
                errno.ENOSPC,
                f"{needed_bytes / 1e9:.2f} GB of weights are to come to this node, {max(0, room) / 1e9:.2f} GB are "
                "free, and what lies here is in use",
            )

    def drop_blob(self, digest: str) -> None:
        """The copy here is not what it should be."""
        for version in self.local.published():
            with contextlib.suppress(NotFoundError):
                if any(entry.digest == digest for entry in self.local.manifest(version).files):
                    self.local.delete_version(version)
        self.local.blob_path(digest).unlink(missing_ok=True)

    def _room_bytes(self) -> int:
        keep_free = int(self.local.total_bytes() * self._free_min_share)
        room = self.local.free_bytes() - keep_free
        if self._bytes_max:
            staged = sum(allocated_bytes(path) for path in self._fillings())
            held = sum(blob.size_bytes for blob in self.local.blobs()) + staged
            room = min(room, self._bytes_max - held)
        return room

    def _droppable(self) -> Iterator[Callable[[], None]]:
        yield lambda: None
        wanted = {*self._wanted, *self._wanted_elsewhere()}
        for path in self._fillings():
            if path.name.removeprefix(FILL_PREFIX) not in wanted:
                yield partial(self._drop_filling, path)
        kept = self._kept()
        versions = sorted(self.local.published() - kept, key=self._used_s)
        for version in versions[:EVICTIONS_MAX]:
            yield partial(self._drop, version)
        loose = sorted(self.local.unused_blobs(age_min_s=0), key=lambda blob: blob.modified_s)
        for blob in loose[:EVICTIONS_MAX]:
            if blob.digest not in wanted:
                yield partial(self.local.blob_path(blob.digest).unlink, missing_ok=True)

    def _drop(self, version: str) -> None:
        with self._unused(version) as unused:
            if unused:
                log.info("cache.evicted", digest=version)
                wanted = {*self._wanted, *self._wanted_elsewhere()}
                self.local.delete_version(version, leased=lambda: wanted)
                self._dropped(version)

    def _kept(self) -> set[str]:
        now = time.monotonic()
        with self._lock:
            held = {digest for digest, until in self._handed_out.items() if until > now}
        return held | set(self._in_use())

    def _used_s(self, digest: str) -> float:
        try:
            return self.local.version_path(digest).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def _has(self, entry: FileEntry) -> bool:
        return self.local.blob_size(entry.digest) == entry.size_bytes

    def _still_to_take(self, entry: FileEntry) -> int:
        """Of its size, what an earlier filling, or another process, has not taken of the disk already."""
        return max(0, entry.size_bytes - allocated_bytes(self._staged(entry)))

    @contextmanager
    def _turn(self, entry: FileEntry, check: Check) -> Iterator[None]:
        while (lock := self.local.locks.attempt(entry.digest, kind="fill")) is None:
            check()
            time.sleep(TURN_POLL_S)
        try:
            yield
        finally:
            lock.release()

    def _fetch(
        self,
        entry: FileEntry,
        source: BlobSource,
        buffers: Buffers,
        *,
        check: Check,
        came: Told,
        found: Told,
    ) -> None:
        staged = self._staged(entry)
        for attempt in range(1, FETCHES_MAX + 1):
            try:
                fetch_blob(source, entry, staged, buffers, check=check, came=came, kept=found)
                break
            except FileNotFoundError as error:
                raise MissingBlobError(entry.digest) from error
            except WrongBytesError:
                came(-entry.size_bytes)
                log.warning("cache.wrong_bytes", digest=entry.digest, attempt=attempt)
                if attempt == FETCHES_MAX:
                    raise
        self.local.publish_blob(staged, entry.digest)
        forget_parts(staged)

    def _check(self) -> None:
        if self._stopped.is_set():
            raise StoppedError

    def _staged(self, entry: FileEntry) -> Path:
        """One per blob, so that whoever comes after a filling that was killed goes on where it was."""
        return self.local.staging_file(f"{FILL_PREFIX}{entry.digest}")

    def _fillings(self) -> list[Path]:
        found = self.local.staging_file(FILL_PREFIX).parent.glob(f"{FILL_PREFIX}*")
        return sorted(path for path in found if path.suffix != JOURNAL_SUFFIX)

    def _drop_filling(self, path: Path) -> None:
        """What a filling that was killed has left; one that goes on keeps it."""
        digest = path.name.removeprefix(FILL_PREFIX)
        if (lock := self.local.locks.attempt(digest, kind="fill")) is not None:
            _drop_staged(path)
            lock.release()

    @contextmanager
    def _wanting(self, manifest: Manifest) -> Iterator[None]:
        """Another filling of this process does not drop what this one has brought so far."""
        wanted = Counter({entry.digest: 1 for entry in manifest.files})
        with self._lock:
            self._wanted += wanted
        try:
            yield
        finally:
            with self._lock:
                self._wanted -= wanted


def _drop_staged(path: Path) -> None:
    path.unlink(missing_ok=True)
    forget_parts(path)
