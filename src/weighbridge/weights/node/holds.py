"""Which versions the processes of a node use or bring: each holds a shared lock, which ends with the process."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from weighbridge.errors import InvalidError
from weighbridge.weights.disk.locks import FileLock
from weighbridge.weights.disk.notes import FolderNotes
from weighbridge.weights.manifest import Manifest, is_digest

LOCK_SUFFIX = ".lock"


class Holds:
    """A directory that all processes of a node share. Its files are never removed: one per version that was here."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._notes = FolderNotes(directory)

    def take(self, digest: str) -> FileLock:
        """From now until its release, or the end of this process, the version is held."""
        lock = FileLock.take(self._path(digest), wait=True, shared=True)
        assert lock is not None
        return lock

    def tell(self, manifest: Manifest) -> None:
        """What the version is made of, for those who make room while it is brought."""
        self._notes.write(manifest.digest, manifest.encode())

    @contextmanager
    def unused(self, digest: str) -> Iterator[bool]:
        """Whether nobody holds the version; if so, who wants to waits until this ends."""
        lock = FileLock.take(self._path(digest), wait=False)
        try:
            yield lock is not None
        finally:
            if lock is not None:
                lock.release()

    def held(self) -> set[str]:
        """The versions that somebody holds, this process included."""
        return set(self._held())

    def wanted(self) -> set[str]:
        """Their blobs, as far as they have been told."""
        found: set[str] = set()
        for digest in self._held():
            try:
                manifest = Manifest.decode(self._notes.read(digest) or b"")
            except InvalidError:
                continue  # whoever holds it has not told yet
            found |= {entry.digest for entry in manifest.files}
        return found

    def _held(self) -> Iterator[str]:
        for path in self._directory.glob(f"*{LOCK_SUFFIX}"):
            if not is_digest(path.stem):
                continue
            lock = FileLock.take(path, wait=False)
            if lock is None:
                yield path.stem
            else:
                lock.release()

    def _path(self, digest: str) -> Path:
        assert is_digest(digest), digest
        return self._directory / f"{digest}{LOCK_SUFFIX}"
