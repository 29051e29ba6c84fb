"""The gateway's side of usage: events are kept in memory for a moment, then appended to a spool file.

A worker that is killed loses at most what `batch_s` seconds bring, or one batch. A batch is synced to disk
before the next begins, so a crash of the machine loses no more. The file is locked as long as its worker lives;
whoever can lock it knows that nothing is added any more. When nothing can be written, the oldest events are
dropped and counted; the count is written as soon as there is room.
"""

import asyncio
import fcntl
import os
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from weighbridge.usage.lines import event_line, loss_line
from weighbridge.usage.model import UsageEvent

log = structlog.get_logger()

SPOOL_SUFFIX = ".usage"


@dataclass(frozen=True, slots=True)
class SpoolLimits:
    batch_s: float = 1.0
    batch_events: int = 256
    pending_max: int = 20_000
    """Events kept while the disk takes nothing; a few MiB."""
    file_bytes_max: int = 8 * 1024 * 1024
    files_bytes_max: int = 512 * 1024 * 1024
    """Of all spools together, as they wait for the control plane; then the oldest file is dropped."""


class SpoolFile:
    """An open spool; blocking, for one thread at a time."""

    def __init__(self, directory: Path, name: str) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = directory / f"{name}{SPOOL_SUFFIX}"
        temporary = directory / f".{name}.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(temporary, flags, 0o600)
        # Locked before it has its name: nobody may take it for the spool of a dead worker.
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        temporary.rename(self.path)
        self.size_bytes = 0

    def append(self, lines: list[bytes]) -> int:
        """Write and sync; returns how many of the lines are in the file, whole. Less than all: there is no room."""
        content = b"".join(lines)
        written = 0
        with suppress(OSError):
            while written < len(content):
                written += os.write(self._descriptor, content[written:])
        kept = 0
        size_bytes = 0
        while kept < len(lines) and size_bytes + len(lines[kept]) <= written:
            size_bytes += len(lines[kept])
            kept += 1
        if size_bytes < written:
            # Readers take whole lines only, so nobody has seen what is cut off here.
            os.ftruncate(self._descriptor, self.size_bytes + size_bytes)
        self.size_bytes += size_bytes
        with suppress(OSError):
            os.fdatasync(self._descriptor)
        return kept

    def close(self) -> None:
        os.close(self._descriptor)


class Spool:
    """`add` never waits; `run` writes. Files are named `<prefix>-<number>.usage`; no prefix may be used twice."""

    def __init__(self, directory: Path, prefix: str, limits: SpoolLimits | None = None) -> None:
        self._directory = directory
        self._prefix = prefix
        self._limits = limits or SpoolLimits()
        self._pending: deque[UsageEvent | bytes] = deque()
        self._lost = 0
        self._full = asyncio.Event()
        self._file: SpoolFile | None = None
        self._number = 0
        self._writing = threading.Lock()

    def add(self, event: UsageEvent) -> None:
        """Its line is made when its batch is written."""
        pending = self._pending
        pending.append(event)
        waiting = len(pending)
        if waiting > self._limits.pending_max:
            pending.popleft()
            self._lost += 1
        if waiting >= self._limits.batch_events:
            self._full.set()

    async def run(self) -> None:
        """Write a batch when it is due, until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._limits.batch_s):
                    await self._full.wait()
            self._full.clear()
            if not await self.flush():
                # No room: what comes meanwhile is not worth a try of its own.
                await asyncio.sleep(self._limits.batch_s)

    async def flush(self) -> bool:
        """Write what is pending; False when not all of it could be."""
        if not self._pending and not self._lost:
            return True
        batch = [loss_line(self._lost)] if self._lost else []
        batch += [one if isinstance(one, bytes) else event_line(one) for one in self._pending]
        lost, self._lost = self._lost, 0
        self._pending.clear()
        kept, dropped = await asyncio.to_thread(self._write, batch)
        self._lost += dropped
        if kept == len(batch):
            return True
        if lost and not kept:
            self._lost += lost
        rest = batch[max(kept, 1 if lost else 0) :]
        self._pending.extendleft(reversed(rest))
        while len(self._pending) > self._limits.pending_max:
            self._pending.popleft()
            self._lost += 1
        log.warning("usage.not_written", events=len(rest), next_step="free disk space")
        return False

    async def close(self) -> None:
        """Write the rest; the last thing a worker does."""
        await self.flush()
        if self._file is not None:
            await asyncio.to_thread(self._file.close)
            self._file = None

    def _write(self, batch: list[bytes]) -> tuple[int, int]:
        """How many lines were written, and how many of older files were dropped for room."""
        dropped = 0
        # A flush that was cancelled may still be writing when the last one begins.
        with self._writing:
            try:
                if self._file is None or self._file.size_bytes >= self._limits.file_bytes_max:
                    dropped = drop_oldest(self._directory, self._limits.files_bytes_max)
                    self._rotate()
            except OSError:
                return 0, dropped
            assert self._file is not None
            return self._file.append(batch), dropped

    def _rotate(self) -> None:
        self._number += 1
        made = SpoolFile(self._directory, f"{self._prefix}-{self._number}")
        if self._file is not None:
            self._file.close()
        self._file = made


def is_left(path: Path) -> bool:
    """Whether the worker that wrote a spool has closed it or died; FileNotFoundError when it is gone."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def drop_oldest(directory: Path, bytes_max: int) -> int:
    """Delete the oldest spools that nobody writes until all are within the limit; returns how many lines they held."""
    found = [(path.stat().st_mtime_ns, path) for path in spools_in(directory)]
    total = sum(path.stat().st_size for _, path in found)
    lines = 0
    for _, path in sorted(found):
        if total <= bytes_max:
            break
        if is_left(path):
            content = path.read_bytes()
            path.unlink()
            total -= len(content)
            lines += content.count(b"\n")
    return lines


def spools_in(directory: Path) -> list[Path]:
    return sorted(directory.glob(f"*{SPOOL_SUFFIX}")) if directory.is_dir() else []
