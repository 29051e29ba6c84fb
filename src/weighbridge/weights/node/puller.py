"""Brings versions to a node of a cluster, for one of its processes: each byte verified, nothing visible before all is.

What lies below the root is shared by every process of the node: blobs, version directories, who uses which.
"""

import time
from pathlib import Path
from threading import Lock

import structlog

from weighbridge.errors import (
    InvalidError,
    LimitError,
    NotFoundError,
    UnavailableError,
    WeighbridgeError,
)
from weighbridge.weights.base import MissingBlobError
from weighbridge.weights.disk.locks import FileLock
from weighbridge.weights.disk.space import is_full
from weighbridge.weights.filesystem import FilesystemStore
from weighbridge.weights.manifest import MANIFEST_FILE, FileEntry, Manifest
from weighbridge.weights.node.cache import NodeCache
from weighbridge.weights.node.fetch import WrongBytesError
from weighbridge.weights.node.holds import Holds
from weighbridge.weights.node.marks import LoadMarks
from weighbridge.weights.node.pull import Pull
from weighbridge.weights.node.source import BUCKET_SCHEME, BlobSource, StoppedError, WeightSource
from weighbridge.weights.node.versions import first_damage
from weighbridge.weights.served.client import ServedBlobs

log = structlog.get_logger()

PAUSE_MIN_S = 0.5
PAUSE_MAX_S = 10.0
FILLS_MAX = 3
"""Tries to present a version whose blobs are dropped, or found damaged, meanwhile."""


class NodePuller:
    """Blocking, for many threads. What it has brought is held, and so kept, until `release` or its process ends."""

    def __init__(self, root: Path) -> None:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.cache_dir = root / "cache"
        """For what engines make of versions; a file or folder there that begins with a digest goes with its version."""
        self._marks = LoadMarks(root / "verified")
        self._local = FilesystemStore(root / "store", self._marks)
        self._holds = Holds(root / "used")
        self._held: dict[str, FileLock] = {}
        self._lock = Lock()

    def bring(self, pull: Pull) -> Path:
        """The version's directory, however long it takes while what holds it up may pass.

        That is a source that is away, or a full disk (`weights_unreachable`, `weights_no_room`). Raises StoppedError
        once `pull` is stopped, and what no time mends: NotFoundError `weights_missing`, InvalidError
        `weights_wrong_digest`, UnauthenticatedError `weights_token_expired` or `weights_token_wrong`.
        """
        pause_s = PAUSE_MIN_S
        while True:
            try:
                return self.bring_once(pull)
            except (LimitError, UnavailableError) as error:
                pull.trouble = f"{error.message} ({error.code})"
                log.warning("weights.pull_waits", digest=pull.digest, code=error.code)
            pull.wait(pause_s)
            pause_s = min(PAUSE_MAX_S, pause_s * 2)

    def bring_once(self, pull: Pull) -> Path:
        """As `bring`, and what may pass is raised too."""
        self._hold(pull.digest)
        try:
            return self._brought(pull)
        except StoppedError:
            raise
        except OSError as error:
            words = error.strerror or str(error)
            if is_full(error):
                raise LimitError(
                    f"No room on the node: {words}.", code="weights_no_room"
                ) from error
            raise UnavailableError(f"{words}.", code="weights_unreachable") from error
        except WeighbridgeError as error:
            log.warning("weights.pull_failed", digest=pull.digest, code=error.code)
            raise

    def release(self, digest: str) -> None:
        """Nobody of this process uses it any more: it may go when room is needed."""
        with self._lock:
            lock = self._held.pop(digest, None)
        if lock is not None:
            lock.release()

    def _hold(self, digest: str) -> None:
        with self._lock:
            if digest not in self._held:
                self._held[digest] = self._holds.take(digest)

    def _brought(self, pull: Pull) -> Path:
        cache = self._cache(pull.source)
        for _ in range(FILLS_MAX):
            pull.check()
            try:
                path = self._local.version_dir(pull.digest)
            except NotFoundError:
                self._fill(cache, pull)
                continue
            damage = first_damage(path, _entries(path), self._marks, lambda _: pull.check())
            if damage is None:
                cache.hold(pull.digest)
                return path
            cache.drop_blob(damage[0])
        raise UnavailableError(
            "What came to the node did not stay whole there", code="weights_unreachable"
        )

    def _fill(self, cache: NodeCache, pull: Pull) -> None:
        blobs = open_blobs(pull.source)
        began_s = time.monotonic()
        try:
            manifest = blobs.manifest(pull.digest)
            if manifest.digest != pull.digest:
                raise _wrong(pull.digest, manifest.digest)
            self._holds.tell(manifest)
            pull.begin(sum({e.digest: e.size_bytes for e in manifest.files}.values()))
            log.info("weights.pull_began", digest=pull.digest, bytes=pull.size_bytes)
            cache.fill(manifest, blobs, check=pull.check, came=pull.came, found=pull.found)
        except MissingBlobError as error:
            raise NotFoundError(
                f"The weight store has no blob {error.digest} of these weights.",
                code="weights_missing",
            ) from error
        except WrongBytesError as error:
            raise _wrong(error.digest, error.found) from error
        finally:
            blobs.close()
        log.info(
            "weights.pulled",
            digest=pull.digest,
            bytes=pull.brought_bytes,
            seconds=round(time.monotonic() - began_s, 3),
            bytes_per_s=round(pull.bytes_per_s),
        )

    def _cache(self, source: WeightSource) -> NodeCache:
        return NodeCache(
            self._local,
            in_use=self._holds.held,
            wanted=self._holds.wanted,
            free_min_share=source.free_min_share,
            bytes_max=source.cache_bytes_max,
            unused=self._holds.unused,
            dropped=self._drop_made,
        )

    def _drop_made(self, digest: str) -> None:
        for path in self.cache_dir.glob(f"*/{digest}.*"):
            path.unlink(missing_ok=True)


def open_blobs(source: WeightSource) -> BlobSource:
    """The place that a source names."""
    if not source.url.startswith(BUCKET_SCHEME):
        return ServedBlobs(source.url, source.token)
    # Only here: boto3 costs a third of a second and 40 MB in each process, and few need it.
    from weighbridge.weights.bucket.blobs import opened  # noqa: PLC0415

    return opened(source)


def _entries(path: Path) -> tuple[FileEntry, ...]:
    return Manifest.decode((path / MANIFEST_FILE).read_bytes()).files


def _wrong(digest: str, found: str) -> InvalidError:
    return InvalidError(
        f"What came as {digest} hashes to {found}: it is damaged in the weight store, or on its way.",
        code="weights_wrong_digest",
    )
