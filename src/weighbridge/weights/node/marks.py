"""Which blobs a node may load without hashing them: those it has written or hashed itself, as they are now (W11)."""

import contextlib
import os
from pathlib import Path


class LoadMarks:
    """A small file per blob in a directory of this node alone; losing it costs a hashing, nothing else."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory

    def holds(self, digest: str, file: Path) -> bool:
        """`file` is a link to the blob. False too for a blob that was replaced or written to since."""
        with contextlib.suppress(FileNotFoundError):
            return self._path(digest).read_bytes() == _identity(file)
        return False

    def note(self, digest: str, file: Path) -> None:
        """The node knows the file's bytes to be those of the digest."""
        identity, path = _identity(file), self._path(digest)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            temporary.write_bytes(identity)
        except FileNotFoundError:
            path.parent.mkdir(exist_ok=True)
            temporary.write_bytes(identity)
        temporary.replace(path)

    def forget(self, digest: str) -> None:
        self._path(digest).unlink(missing_ok=True)

    def _path(self, digest: str) -> Path:
        return self._directory / digest[:2] / digest


def _identity(file: Path) -> bytes:
    state = file.stat()
    return f"{state.st_ino} {state.st_size} {state.st_mtime_ns}".encode()
