"""Gives an engine the directory of a version once this node has every byte of it and has verified it (W1, W11)."""

import errno
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYetError
from pathlib import Path
from threading import Event, Lock

import structlog

from weighbridge.errors import NotFoundError, UnavailableError
from weighbridge.weights.base import WeightStore
from weighbridge.weights.disk.verification import hash_at_rate
from weighbridge.weights.manifest import MANIFEST_FILE, FileEntry, Manifest
from weighbridge.weights.node.marks import LoadMarks

log = structlog.get_logger()

QUICK_S = 0.25
"""What is here and verified is given within this; for the rest the caller asks again."""
BRINGS_PARALLEL = 2
COPIES_MAX = 3
FULL_RATE = 1e12


class NodeVersions:
    """Blocking, but never long. `close` ends what is under way."""

    def __init__(self, store: WeightStore, marks: LoadMarks) -> None:
        self._store = store
        self._marks = marks
        self._lock = Lock()
        self._stopped = Event()
        self._threads = ThreadPoolExecutor(BRINGS_PARALLEL, thread_name_prefix="versions")
        self._brought: dict[str, Future[Path]] = {}

    def version_dir(self, digest: str) -> Path:
        """NotFoundError when it is not published or not whole; UnavailableError while it is brought or verified."""
        with self._lock:
            future = self._brought.get(digest)
            if future is None:
                future = self._brought[digest] = self._threads.submit(self._bring, digest)
        try:
            path = future.result(QUICK_S)
        except NotYetError:
            raise UnavailableError(
                "The weights are brought to this node and verified before their first load.",
                code="weights_on_their_way",
            ) from None
        except OSError as error:
            self._end(digest)
            raise UnavailableError(
                f"The weights cannot be brought to this node: {error.strerror or error}.",
                code="weights_on_their_way",
            ) from error
        except NotFoundError:
            self._end(digest)
            raise
        self._end(digest)
        return path

    def close(self) -> None:
        self._stopped.set()
        self._store.close()
        self._threads.shutdown(cancel_futures=True)

    def _end(self, digest: str) -> None:
        with self._lock:
            self._brought.pop(digest, None)

    def _bring(self, digest: str) -> Path:
        for _ in range(COPIES_MAX):
            path = self._store.version_dir(digest)
            try:
                manifest = Manifest.decode((path / MANIFEST_FILE).read_bytes())
                damaged = first_damage(path, manifest.files, self._marks, self._pause)
            except FileNotFoundError:
                continue  # dropped meanwhile
            if damaged is None:
                return path
            if not self._store.damaged_here(*damaged):
                break
        raise NotFoundError(
            f"The weights {digest} are damaged in the weight store. Upload them again.",
            code="weights_damaged",
        )

    def _pause(self, _seconds: float) -> None:
        if self._stopped.is_set():
            raise OSError(errno.EINTR, "the process ends")


def first_damage(
    path: Path, files: Sequence[FileEntry], marks: LoadMarks, pause: Callable[[float], None]
) -> tuple[str, str] | None:
    """Hash what this node has neither written nor hashed yet; the digest that is wrong, and what it is instead."""
    for entry in files:
        file = path / entry.path
        if marks.holds(entry.digest, file):
            continue
        with file.open("rb", buffering=0) as content:
            found = hash_at_rate(content, FULL_RATE, pause)
        if found != entry.digest:
            log.error("store.damaged_on_load", digest=entry.digest, found_digest=found)
            return entry.digest, found
        marks.note(entry.digest, file)
    return None
