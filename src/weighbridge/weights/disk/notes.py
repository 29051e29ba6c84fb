"""Small files of a weight store that can be made again, by the digest of the blob they are about."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Protocol

from weighbridge.weights.manifest import is_digest

SUFFIX = ".json"


class Notes(Protocol):
    """Blocking; several processes may use them. OSError where the store cannot be reached."""

    def known(self) -> set[str]:
        """The digests of all blobs that have a note."""

    def read(self, digest: str) -> bytes | None: ...

    def write(self, digest: str, content: bytes) -> None: ...

    def remove(self, digests: Collection[str]) -> None:
        """Also of what is not there."""


class FolderNotes(Notes):
    """In a directory of the store."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory

    def known(self) -> set[str]:
        return {path.stem for path in self._directory.glob(f"*{SUFFIX}") if is_digest(path.stem)}

    def read(self, digest: str) -> bytes | None:
        try:
            return self._path(digest).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, digest: str, content: bytes) -> None:
        temporary = self._directory / f"{digest}.{os.getpid()}.tmp"
        temporary.write_bytes(content)
        temporary.replace(self._path(digest))

    def remove(self, digests: Collection[str]) -> None:
        for digest in digests:
            self._path(digest).unlink(missing_ok=True)

    def _path(self, digest: str) -> Path:
        assert is_digest(digest), digest
        return self._directory / f"{digest}{SUFFIX}"
