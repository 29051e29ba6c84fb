"""Shared memory between gateway workers and the control plane: applied generations and in-flight counts.

One column per worker, written by that worker alone, so there are no locks. A reader sums the columns of the
workers that live. Worker w's column: a head (pid, start time, routes generation, keys generation) and one
in-flight count per replica slot. The heads lie together: who asks which workers live touches no counts.
"""

import mmap
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from weighbridge.routing.model import SLOTS_MAX

WORKERS_MAX = 64
_MAGIC = b"WBACKS02"
_HEADER_BYTES = 64
_WORKER_HEAD = struct.Struct("<qqqq")  # pid, start time in clock ticks, routes gen, keys gen
_HEAD_BYTES = 64
_COUNTS_OFFSET = 8192
_COUNT_BYTES = 4
_COUNTS_BYTES = SLOTS_MAX * _COUNT_BYTES
FILE_BYTES = _COUNTS_OFFSET + WORKERS_MAX * _COUNTS_BYTES


def process_start_ticks(pid: int) -> int | None:
    """Start time of a live process in clock ticks since boot; None when there is none (or a zombie)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat[stat.rindex(b")") + 2 :].split()
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def open_acks(path: Path) -> mmap.mmap:
    """Map the file, making it (all zero) on first use; one of another layout is begun anew."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        # Zeros: another process is making it at this moment.
        if os.pread(descriptor, len(_MAGIC), 0) not in (b"", bytes(len(_MAGIC)), _MAGIC):
            os.ftruncate(descriptor, 0)
        os.ftruncate(descriptor, FILE_BYTES)
        memory = mmap.mmap(descriptor, FILE_BYTES)
    finally:
        os.close(descriptor)
    # One slot here, one there: what lies beside it need not be read ahead.
    memory.madvise(mmap.MADV_RANDOM)
    memory[: len(_MAGIC)] = _MAGIC
    return memory


def _head_offset(worker: int) -> int:
    if not 0 <= worker < WORKERS_MAX:
        raise ValueError(f"worker {worker} is not in 0..{WORKERS_MAX - 1}")
    return _HEADER_BYTES + worker * _HEAD_BYTES


def _counts(memory: mmap.mmap, worker: int) -> "memoryview[int]":
    start = _COUNTS_OFFSET + worker * _COUNTS_BYTES
    return memoryview(memory)[start : start + _COUNTS_BYTES].cast("i")


def clear_column(memory: mmap.mmap, worker: int) -> None:
    """Forget a worker that has died; only its parent may do this, and only once it has been reaped."""
    offset = _head_offset(worker)
    memory[offset : offset + _HEAD_BYTES] = bytes(_HEAD_BYTES)
    with _counts(memory, worker) as counts:
        counts[:] = memoryview(bytes(_COUNTS_BYTES)).cast("i")


class WorkerColumn:
    """A gateway worker's own column: the only writer of it. `counts[slot]` is its in-flight requests."""

    def __init__(self, memory: mmap.mmap, worker: int, pid: int) -> None:
        self._memory = memory
        self._offset = _head_offset(worker)
        clear_column(memory, worker)
        self.counts = _counts(memory, worker)
        self._head = (pid, process_start_ticks(pid) or 0)
        self._write(0, 0)

    def acknowledge(self, routes_generation: int, keys_generation: int) -> None:
        """Say which tables are applied; call after the swap, never before (G5)."""
        self._write(routes_generation, keys_generation)

    @contextmanager
    def hold(self, slot: int) -> Iterator[None]:
        """Count one request on the replica of this slot for as long as the block lasts."""
        self.counts[slot] += 1
        try:
            yield
        finally:
            self.counts[slot] -= 1

    def _write(self, routes_generation: int, keys_generation: int) -> None:
        _WORKER_HEAD.pack_into(
            self._memory, self._offset, *self._head, routes_generation, keys_generation
        )

    def close(self) -> None:
        self._head = (0, 0)
        self._write(0, 0)
        self.counts.release()


@dataclass(frozen=True, slots=True)
class WorkerAck:
    pid: int
    routes_generation: int
    keys_generation: int
    host: str = ""
    """Of a worker on another host; empty for this one's."""


class GatewayView:
    """The control plane's (and any worker's) view on all columns."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        self._columns = tuple(_counts(memory, worker) for worker in range(WORKERS_MAX))

    def _live(self) -> Iterator[tuple[int, WorkerAck]]:
        for worker in range(WORKERS_MAX):
            pid, started, routes, keys = _WORKER_HEAD.unpack_from(
                self._memory, _head_offset(worker)
            )
            if pid and process_start_ticks(pid) == started:
                yield worker, WorkerAck(pid, routes, keys)

    def live_columns(self) -> list[int]:
        """Columns that a live worker writes; no other worker may be given one of them."""
        return [worker for worker, _ in self._live()]

    def workers(self) -> list[WorkerAck]:
        return [ack for _, ack in self._live()]

    def routes_acked(self) -> int | None:
        """The generation every live worker has applied; None when no worker lives.

        A worker that starts later reads the newest table before it listens, so None may be taken as
        'nobody routes by an older table'.
        """
        return min((ack.routes_generation for ack in self.workers()), default=None)

    def keys_acked(self) -> int | None:
        """As `routes_acked`, for the key table: what is revoked by then is refused everywhere (T4)."""
        return min((ack.keys_generation for ack in self.workers()), default=None)

    def columns(self) -> "Sequence[memoryview[int]]":
        """The counts of every live worker; asks the kernel who lives, so not for each request."""
        return [self._columns[worker] for worker, _ in self._live()]

    def counter(self) -> Callable[[int], int]:
        """As `in_flight` for many slots in a row: who lives is asked once."""
        return partial(sum_slot, self.columns())

    def in_flight(self, slot: int) -> int:
        """Requests on this replica slot over all live workers; a dead worker's streams are gone with it."""
        return sum_slot(self.columns(), slot)

    def busy_slots(self) -> dict[int, int]:
        """Every slot with requests in flight, and how many; looks at all slots, so not often."""
        busy: dict[int, int] = {}
        for column in self.columns():
            for slot, count in enumerate(column):
                if count > 0:
                    busy[slot] = busy.get(slot, 0) + count
        return busy


def sum_slot(columns: "Sequence[memoryview[int]]", slot: int) -> int:
    return sum(max(0, column[slot]) for column in columns)
