"""Whose turn it is to fetch a content that several syncs of one org want at the same time (W7)."""

from collections.abc import Callable

from weighbridge.ingest.model import PinnedFile
from weighbridge.ingest.pump.staged import Entry
from weighbridge.weights.base import WeightStore
from weighbridge.weights.disk.locks import FileLock


class Turn:
    """A lock of the weight store's, so it holds among processes and ends with the one that has it."""

    def __init__(self, store: WeightStore, name: str) -> None:
        self._store = store
        self._name = name
        self._lock: FileLock | None = None

    def enter(self, here: Callable[[], bool]) -> Entry:
        """`here` looks whether another sync has brought the content meanwhile; it is asked under the lock."""
        self._lock = self._store.locks.attempt(self._name)
        if self._lock is None:
            return Entry.BUSY
        try:
            found = here()
        except BaseException:
            self.leave()
            raise
        if not found:
            return Entry.MINE
        self.leave()
        return Entry.HERE

    def leave(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def identity(org_id: str, bucket: str, file: PinnedFile) -> str:
    """Equal for two files that are surely the same content, as far as S3 tells."""
    if file.content_checksum is not None:
        return f"{org_id}:{file.content_checksum}:{file.size_bytes}"
    return f"{org_id}:{bucket}:{file.ident}"
