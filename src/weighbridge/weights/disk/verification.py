"""Which blobs are due to be hashed again, and the hashing of one at a bounded rate (W11)."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from blake3 import blake3

from weighbridge.weights.digest import HASH_PART_BYTES, combine
from weighbridge.weights.disk.collection import Blob

READ_BYTES = 1024 * 1024
ASKED = "asked"


class Readable(Protocol):
    """A blob's content from its start."""

    def read(self, size: int, /) -> bytes | None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Due:
    """A blob to verify; `since_s` is when it was verified last, or came (wall clock)."""

    digest: str
    size_bytes: int
    since_s: float


class Verifications:
    """When each blob was found whole last: the time of an empty file of its name."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory

    def due(self, blobs: Iterable[Blob], *, before: float) -> list[Due]:
        """Those not verified since `before`, longest ago first."""
        found = []
        for blob in blobs:
            since_s = self._verified_s(blob.digest) or blob.modified_s
            if since_s <= before:
                found.append(Due(blob.digest, blob.size_bytes, since_s))
        return sorted(found, key=lambda due: due.since_s)

    def ask(self) -> None:
        """Make every blob due now."""
        (self._directory / ASKED).touch()

    def asked_s(self) -> float:
        """When that was last (wall clock); 0 for never."""
        return _modified_s(self._directory / ASKED)

    def note(self, digest: str) -> None:
        self._path(digest).parent.mkdir(exist_ok=True)
        self._path(digest).touch()

    def forget(self, digest: str) -> None:
        self._path(digest).unlink(missing_ok=True)

    def _verified_s(self, digest: str) -> float:
        return _modified_s(self._path(digest))

    def _path(self, digest: str) -> Path:
        return self._directory / digest[:2] / digest


def _modified_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def hash_at_rate(
    content: Readable,
    bytes_per_s: float,
    pause: Callable[[float], None],
    monotonic: Callable[[], float] = time.monotonic,
) -> str:
    """The digest of a file, read no faster than `bytes_per_s`; `pause` may raise to stop. Blocking."""
    digests: list[bytes] = []
    began, done = monotonic(), 0
    hasher, left = blake3(), HASH_PART_BYTES
    while chunk := content.read(min(READ_BYTES, left)):
        hasher.update(chunk)
        left -= len(chunk)
        done += len(chunk)
        if left == 0:
            digests.append(hasher.digest())
            hasher, left = blake3(), HASH_PART_BYTES
        pause(max(0.0, began + done / bytes_per_s - monotonic()))
    if left < HASH_PART_BYTES:
        digests.append(hasher.digest())
    return combine(digests)
