"""Snapshots as files: written whole, fsynced and renamed into place, so a reader sees the old or the new."""

import asyncio
import fcntl
import os
from pathlib import Path
from typing import Generic

import msgspec
import structlog

from weighbridge.errors import StaleError
from weighbridge.routing.model import Table

log = structlog.get_logger()

SNAPSHOT_BYTES_MAX = 256 * 1024 * 1024


class SnapshotFile(Generic[Table]):
    """A table's file, and what it says as far as this process knows."""

    def __init__(self, path: Path, kind: type[Table]) -> None:
        self._path = path
        self._kind: type[Table] = kind
        self._seen: tuple[int, int] | None = None
        self._table: Table | None = None

    async def read(self) -> Table | None:
        """What the file says; it is read again only when it is not the file that was seen last."""
        return await asyncio.to_thread(self._read)

    async def write(self, table: Table) -> None:
        """StaleError when another controller has published since `read`."""
        await asyncio.to_thread(self._write, table)

    def _read(self) -> Table | None:
        identity = self._identity()
        if identity is None or identity != self._seen:
            try:
                self._table = read_snapshot(self._path, self._kind)
            except msgspec.MsgspecError as error:
                log.warning("snapshot.unreadable", path=self._path.name, reason=str(error))
                self._table = None
            self._seen = identity
        return self._table

    def _write(self, table: Table) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        publish_snapshot(self._path, table, table.generation)
        self._seen, self._table = self._identity(), table

    def _identity(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_mtime_ns


class _Numbered(msgspec.Struct):
    generation: int


def publish_snapshot(path: Path, snapshot: msgspec.Struct, generation: int) -> None:
    """As `write_snapshot`, but StaleError where the file holds a higher generation than the snapshot's.

    A writer that was stopped before this line, and wakes up when another has published, does no harm so.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    lock = os.open(path.with_name(f".{path.name}.turn"), flags, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _generation(path) > generation:
            raise StaleError(f"another process has published {path.name} meanwhile")
        write_snapshot(path, snapshot)
    finally:
        os.close(lock)


def _generation(path: Path) -> int:
    """0 where there is none to be read: whatever comes next is better."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Numbered).generation
    except (FileNotFoundError, msgspec.MsgspecError):
        return 0


def write_snapshot(path: Path, snapshot: msgspec.Struct) -> None:
    """Mode 600: a snapshot names every endpoint and key digest. Blocking; a few ms with fsync."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(snapshot))
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def read_snapshot(path: Path, kind: type[Table]) -> Table | None:
    """None when there is no file yet; raises msgspec.MsgspecError for a file that is not a snapshot."""
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(SNAPSHOT_BYTES_MAX), type=kind)
    except FileNotFoundError:
        return None
