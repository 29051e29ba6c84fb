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
from contextlib import contextmanager
from functools import partial
from threading import Event, Lock

import structlog

from weighbridge.errors import NotFoundError
from weighbridge.weights.base import MissingBlobError
from weighbridge.weights.bucket.objects import Bucket
from weighbridge.weights.bucket.transfer import WrongBytesError, allocate, fetch_blob
from weighbridge.weights.filesystem import TEMPORARY_PREFIX, FilesystemStore
from weighbridge.weights.manifest import FileEntry, Manifest

log = structlog.get_logger()

HANDED_OUT_S = 60.0
"""A version that was given to somebody is kept this long, until a row says that it is used."""
FETCHES_MAX = 3
"""Of a blob that does not arrive as what it is."""
EVICTIONS_MAX = 10_000

InUse = Callable[[], Collection[str]]
"""The manifests that replicas of this node use or are to use."""


class StoppedError(OSError):
    """The process ends; the next one brings the version."""


class NodeCache:
    """Blocking, for many threads and processes of one node."""

    def __init__(self, local: FilesystemStore, *, in_use: InUse, free_min_share: float) -> None:
        self.local = local
        self._in_use = in_use
        self._free_min_share = free_min_share
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

    def fill(self, manifest: Manifest, bucket: Bucket, key_of: Callable[[str], str]) -> None:
        """Bring what is missing and present the version; WrongBytesError for a blob that is damaged in the bucket."""
        with self._wanting(manifest):
            with self.local.locks.holding("reserve"):
                missing = {e.digest: e for e in manifest.files if not self._has(e)}
                self.make_room(sum(entry.size_bytes for entry in missing.values()))
                for entry in missing.values():
                    allocate(self.local.staging_file(_staging_name(entry)), entry.size_bytes)
            for entry in missing.values():
                # One filler per blob among all processes here; whoever waited finds it done.
                with self.local.locks.holding(entry.digest, kind="fill"):
                    if self._has(entry):
                        self.local.staging_file(_staging_name(entry)).unlink(missing_ok=True)
                    else:
                        self._fetch(entry, bucket, key_of(entry.digest))
            self.local.publish(manifest)
            self.hold(manifest.digest)
        if missing:
            size = sum(entry.size_bytes for entry in missing.values())
            log.info("cache.filled", digest=manifest.digest, blobs=len(missing), bytes=size)

    def make_room(self, needed_bytes: int) -> None:
        """Drop what was used longest ago until there is room; OSError ENOSPC when all that is left is in use."""
        keep_free = int(self.local.total_bytes() * self._free_min_share)
        for drop in self._droppable():
            if self.local.free_bytes() - keep_free >= needed_bytes:
                return
            drop()
        if (free := self.local.free_bytes() - keep_free) < needed_bytes:
            raise OSError(
                errno.ENOSPC,
                f"{needed_bytes / 1e9:.2f} GB of weights are to come to this node, {max(0, free) / 1e9:.2f} GB are "
                "free, and what lies here is in use",
            )

    def drop_blob(self, digest: str) -> None:
        """The copy here is not what it should be."""
        for version in self.local.published():
            with contextlib.suppress(NotFoundError):
                if any(entry.digest == digest for entry in self.local.manifest(version).files):
                    self.local.delete_version(version)
        self.local.blob_path(digest).unlink(missing_ok=True)

    def _droppable(self) -> Iterator[Callable[[], None]]:
        yield lambda: None
        kept = self._kept()
        versions = sorted(self.local.published() - kept, key=self._used_s)
        for version in versions[:EVICTIONS_MAX]:
            yield partial(self._drop, version)
        loose = sorted(self.local.unused_blobs(age_min_s=0), key=lambda blob: blob.modified_s)
        for blob in loose[:EVICTIONS_MAX]:
            if blob.digest not in self._wanted:
                yield partial(self.local.blob_path(blob.digest).unlink, missing_ok=True)

    def _drop(self, version: str) -> None:
        log.info("cache.evicted", digest=version)
        self.local.delete_version(version, leased=lambda: set(self._wanted))

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

    def _fetch(self, entry: FileEntry, bucket: Bucket, key: str) -> None:
        staged = self.local.staging_file(_staging_name(entry))
        for attempt in range(1, FETCHES_MAX + 1):
            try:
                fetch_blob(bucket, key, entry, staged, check=self._check)
                break
            except FileNotFoundError as error:
                raise MissingBlobError(entry.digest) from error
            except WrongBytesError:
                log.warning("cache.wrong_bytes", digest=entry.digest, attempt=attempt)
                if attempt == FETCHES_MAX:
                    raise
        self.local.publish_blob(staged, entry.digest)

    def _check(self) -> None:
        if self._stopped.is_set():
            raise StoppedError(errno.EINTR, "the process ends")

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


def _staging_name(entry: FileEntry) -> str:
    """One per blob, so that what a killed filling left is written over."""
    return f"{TEMPORARY_PREFIX}fill-{entry.digest}"
