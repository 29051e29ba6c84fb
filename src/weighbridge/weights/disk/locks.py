"""Locks among all processes that use one weight store; one ends with the process that has it."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from weighbridge.weights.digest import content_digest

LOCKS_MAX = 4096


class Locks:
    """Locks by name, on at most LOCKS_MAX files of a kind that are never removed.

    Names that share a file wait for each other, so kinds differ by how long they are held.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory

    def attempt(self, name: str, *, kind: str = "turn") -> "FileLock | None":
        """None while somebody has it."""
        return FileLock.take(self._path(name, kind), wait=False)

    @contextmanager
    def holding(self, name: str, *, kind: str = "brief") -> Iterator[None]:
        """Wait for a lock that others hold only briefly. Nobody who holds one waits for another."""
        lock = FileLock.take(self._path(name, kind), wait=True)
        assert lock is not None
        try:
            yield
        finally:
            lock.release()

    def _path(self, name: str, kind: str) -> Path:
        number = int(content_digest(name.encode())[:8], 16) % LOCKS_MAX
        return self._directory / f"{kind}-{number:03x}"


class FileLock:
    """An flock(2) on a file of its own."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, path: Path, *, wait: bool, shared: bool = False) -> "FileLock | None":
        """None when it is held otherwise, and `wait` is not asked for. Several may have it `shared`."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            fcntl.flock(descriptor, kind | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor)

    def release(self) -> None:
        os.close(self._descriptor)
