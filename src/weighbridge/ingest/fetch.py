"""The pump: pinned files into staging by ranged reads in parallel, hashed as they arrive, resumable part by part."""

import base64
import errno
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import awscrt.checksums
import msgspec
import structlog
from blake3 import blake3

from weighbridge.ingest.model import PinnedFile
from weighbridge.ingest.pulse import Pulse
from weighbridge.ingest.s3.faults import Retry, SourceError
from weighbridge.ingest.s3.source import CHUNK_BYTES
from weighbridge.weights.digest import HASH_PART_BYTES, combine, part_count

log = structlog.get_logger()

JOURNAL_SUFFIX = ".journal"
JOURNAL_BYTES_MAX = 64 * 1024 * 1024
QUEUED_PER_WORKER = 2
"""Steps handed to the pool beyond those running: enough to keep it busy, few enough to keep the order."""


class RangeReader(Protocol):
    def stream(self, file: PinnedFile, start: int, end: int) -> Iterator[bytes]:
        """Exactly the bytes [start, end) of the pinned object, in chunks; retries by itself."""
        ...


@dataclass(frozen=True, slots=True)
class FetchOrder:
    """`check(staged)` may raise SourceError CHECKSUM for content that is not what the verdict was about."""

    file: PinnedFile
    staged: Path
    check: Callable[[Path], None]


Finished = Callable[[PinnedFile, Path, str], None]


def reserve(orders: Sequence[FetchOrder], *, free_bytes: int, keep_free_bytes: int) -> None:
    """Take the disk space of all files before the first byte is read (W9); SourceError DISK_FULL says how much."""
    missing = sum(max(0, order.file.size_bytes - _allocated(order.staged)) for order in orders)
    if missing > free_bytes - keep_free_bytes:
        raise disk_full(missing, max(0, free_bytes - keep_free_bytes))
    for order in orders:
        descriptor = _open_staged(order.staged)
        try:
            os.posix_fallocate(descriptor, 0, order.file.size_bytes)
        except OSError as error:
            raise disk_fault(error, missing, free_bytes) from error
        finally:
            os.close(descriptor)


def fetch(
    source: RangeReader,
    orders: Sequence[FetchOrder],
    pulse: Pulse,
    *,
    workers: int,
    tries_max: int,
    finished: Finished,
) -> None:
    """Fetch every file; `finished(file, staged, digest)` runs in a worker once one is whole and verified.

    Parts that an earlier, interrupted call had journalled are read back and kept (W6). SourceError CHECKSUM
    after `tries_max` fetches of a file that does not verify. Blocking; the first failure stops the rest.
    """
    with ThreadPoolExecutor(workers, thread_name_prefix="fetch") as pool:
        pump = _Pump(
            source,
            orders,
            pulse,
            pool,
            queue_max=workers * QUEUED_PER_WORKER,
            tries_max=tries_max,
            finished=finished,
        )
        pump.run()


def disk_full(needed_bytes: int, free_bytes: int) -> SourceError:
    return SourceError(
        f"The weight store needs {needed_bytes / 1e9:.2f} GB for these weights and has {free_bytes / 1e9:.2f} GB "
        "free. The operator must make room.",
        code="DISK_FULL",
        retry=Retry.DISK,
    )


@dataclass(frozen=True, slots=True)
class _Part:
    index: int
    digest: bytes
    checksum: int
    size_bytes: int
    kept: bool


class _Line(msgspec.Struct):
    part: int
    blake3: str


class _Pump:
    """Owns the state of one `fetch`; only its thread changes it, workers return values."""

    def __init__(
        self,
        source: RangeReader,
        orders: Sequence[FetchOrder],
        pulse: Pulse,
        pool: ThreadPoolExecutor,
        *,
        queue_max: int,
        tries_max: int,
        finished: Finished,
    ) -> None:
        self._source = source
        self._pulse = pulse
        self._pool = pool
        self._queue_max = queue_max
        self._tries_max = tries_max
        self._finished = finished
        self._orders = deque(orders)
        self._tries: dict[str, int] = {}
        self._steps: deque[tuple[_Staged, int]] = deque()
        self._parts: dict[Future[_Part], _Staged] = {}
        self._files: dict[Future[None], _Staged] = {}

    def run(self) -> None:
        try:
            while True:
                self._fill()
                running: list[Future[Any]] = [*self._parts, *self._files]  # of either kind
                if not running:
                    return
                wait(running, return_when=FIRST_COMPLETED)
                self._collect()
        except BaseException as error:
            self._pulse.stop(error if isinstance(error, Exception) else SystemError("interrupted"))
            raise
        finally:
            self._wait_for_all()
            self._keep_finished_parts()
            left = {
                *self._parts.values(),
                *self._files.values(),
                *(file for file, _ in self._steps),
            }
            for staged in left:
                staged.close()

    def _wait_for_all(self) -> None:
        wait(self._parts)
        wait(self._files)

    def _keep_finished_parts(self) -> None:
        """Journal what siblings finished while the first failure was on its way (W6)."""
        for future, staged in self._parts.items():
            if not future.cancelled() and future.exception() is None:
                staged.accept(future.result())

    def _fill(self) -> None:
        while len(self._parts) + len(self._files) < self._queue_max:
            if not self._steps:
                if not self._orders:
                    return
                staged = _Staged(self._orders.popleft())
                self._steps.extend((staged, index) for index in range(staged.part_count))
            staged, index = self._steps.popleft()
            future = self._pool.submit(staged.obtain, index, self._source, self._pulse)
            self._parts[future] = staged

    def _collect(self) -> None:
        for part in [future for future in self._parts if future.done()]:
            staged = self._parts.pop(part)
            try:
                whole = staged.accept(part.result())
            except BaseException:
                staged.close()
                raise
            if whole:
                staged.close()
                self._files[self._pool.submit(staged.finish, self._finished)] = staged
        for file in [future for future in self._files if future.done()]:
            staged = self._files.pop(file)
            try:
                file.result()
            except SourceError as error:
                self._again(staged, error)

    def _again(self, staged: "_Staged", error: SourceError) -> None:
        key = staged.order.file.key
        self._tries[key] = self._tries.get(key, 0) + 1
        if error.code != "CHECKSUM" or self._tries[key] >= self._tries_max:
            raise error
        log.warning("sync.checksum_mismatch", key=key, tries=self._tries[key])
        staged.discard()
        self._pulse.add_done(-staged.order.file.size_bytes)
        self._orders.append(staged.order)


class _Staged:
    """One file on its way: its descriptor, its parts so far and its journal."""

    def __init__(self, order: FetchOrder) -> None:
        self.order = order
        self.part_count = part_count(order.file.size_bytes)
        self._algorithm, self._expected = _parse_checksum(order.file.checksum)
        self._parts: dict[int, _Part] = {}
        self._journal_path = order.staged.with_name(order.staged.name + JOURNAL_SUFFIX)
        self._journalled = _read_journal(self._journal_path)
        self._descriptor = _open_staged(order.staged)
        self._journal = self._journal_path.open("ab", buffering=0)

    def obtain(self, index: int, source: RangeReader, pulse: Pulse) -> _Part:
        """Read a journalled part back, or fetch it. Runs in a worker."""
        pulse.check()
        start = index * HASH_PART_BYTES
        end = min(start + HASH_PART_BYTES, self.order.file.size_bytes)
        if index in self._journalled:
            part = self._take(index, _read_back(self._descriptor, start, end), kept=True)
            if part.digest.hex() == self._journalled[index]:
                pulse.beat()
                pulse.add_done(part.size_bytes)
                return part
        chunks = source.stream(self.order.file, start, end)
        part = self._take(index, _written(self._descriptor, start, chunks), kept=False)
        assert part.size_bytes == end - start
        pulse.add_done(part.size_bytes)
        return part

    def accept(self, part: _Part) -> bool:
        """Note a part; True when it was the last one missing."""
        self._parts[part.index] = part
        if not part.kept:
            line = msgspec.json.encode(_Line(part.index, part.digest.hex())) + b"\n"
            self._journal.write(line)
        return len(self._parts) == self.part_count

    def finish(self, finished: Finished) -> None:
        """Verify the whole file and hand it over. Runs in a worker; SourceError CHECKSUM."""
        parts = [self._parts[index] for index in range(self.part_count)]
        if self._expected is not None and self._combined(parts) != self._expected:
            raise SourceError(
                f"{self.order.file.key} does not have the checksum that S3 states for it "
                f"({self.order.file.checksum}). Upload the file to the bucket again.",
                code="CHECKSUM",
            )
        self.order.check(self.order.staged)
        finished(self.order.file, self.order.staged, combine([part.digest for part in parts]))
        self._journal_path.unlink(missing_ok=True)

    def discard(self) -> None:
        self._journal_path.unlink(missing_ok=True)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._journal.close()

    def _take(self, index: int, chunks: Iterator[bytes], *, kept: bool) -> _Part:
        hasher, checksum, size = blake3(), 0, 0
        for chunk in chunks:
            hasher.update(chunk)
            if self._algorithm is not None:
                checksum = getattr(awscrt.checksums, self._algorithm)(chunk, checksum)
            size += len(chunk)
        return _Part(index, hasher.digest(), checksum, size, kept)

    def _combined(self, parts: Sequence[_Part]) -> int:
        join = getattr(awscrt.checksums, f"combine_{self._algorithm}")
        total = parts[0].checksum
        for part in parts[1:]:
            total = join(total, part.checksum, part.size_bytes)
        return int(total)


def _parse_checksum(text: str | None) -> tuple[str | None, int | None]:
    if text is None:
        return None, None
    algorithm, _, value = text.partition(":")
    return algorithm, int.from_bytes(base64.b64decode(value), "big")


def _open_staged(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _allocated(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0


def _read_back(descriptor: int, start: int, end: int) -> Iterator[bytes]:
    at = start
    while at < end and (chunk := os.pread(descriptor, min(CHUNK_BYTES, end - at), at)):
        at += len(chunk)
        yield chunk


def _written(descriptor: int, start: int, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Pass chunks on, each written at its place first."""
    at = start
    for chunk in chunks:
        view = memoryview(chunk)
        while view:
            try:
                count = os.pwrite(descriptor, view, at)
            except OSError as error:
                raise disk_fault(error, len(view), 0) from error
            view, at = view[count:], at + count
        yield chunk


def disk_fault(error: OSError, needed_bytes: int, free_bytes: int) -> SourceError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return disk_full(needed_bytes, free_bytes)
    return SourceError(
        f"The weight store cannot be written: {os.strerror(error.errno or 0)}. The operator must repair it.",
        code="STORE_FAILED",
        retry=Retry.DISK,
    )


def _read_journal(path: Path) -> dict[int, str]:
    """Part digests by part; a line cut short by a crash ends the journal."""
    found: dict[int, str] = {}
    try:
        with path.open("rb") as file:
            content = file.read(JOURNAL_BYTES_MAX)
    except FileNotFoundError:
        return found
    for line in content.splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break
        try:
            entry = msgspec.json.decode(line, type=_Line)
        except msgspec.MsgspecError:
            break
        found[entry.part] = entry.blake3
    return found
