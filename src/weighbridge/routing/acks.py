"""Shared memory between gateway workers and the control plane: applied generations and in-flight counts.

One column per worker, written by that worker alone, so there are no locks. A reader sums the columns of the
workers that live. Worker w's column: pid, start time, routes generation, keys generation, then one in-flight
count per replica slot.
"""

import mmap
import os
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from weighbridge.routing.model import SLOTS_MAX

WORKERS_MAX = 64
_MAGIC = b"WBACKS01"
_HEADER_BYTES = 64
_WORKER_HEAD = struct.Struct("<qqqq")  # pid, start time in clock ticks, routes gen, keys gen
_COUNT_BYTES = 4
_COLUMN_BYTES = 64 + SLOTS_MAX * _COUNT_BYTES
FILE_BYTES = _HEADER_BYTES + WORKERS_MAX * _COLUMN_BYTES


def process_start_ticks(pid: int) -> int | None:
    """Start time of a live process in clock ticks since boot; None when there is none (or a zombie)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat[stat.rindex(b")") + 2 :].split()
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def open_acks(path: Path) -> mmap.mmap:
    """Map the file, making it (all zero) on first use."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(descriptor, FILE_BYTES)
        memory = mmap.mmap(descriptor, FILE_BYTES)
    finally:
        os.close(descriptor)
    memory[: len(_MAGIC)] = _MAGIC
    return memory


class WorkerColumn:
    """A gateway worker's own column: the only writer of it. `counts[slot]` is its in-flight requests."""

    def __init__(self, memory: mmap.mmap, worker: int, pid: int) -> None:
        if not 0 <= worker < WORKERS_MAX:
            raise ValueError(f"worker {worker} is not in 0..{WORKERS_MAX - 1}")
        self._memory = memory
        self._offset = _HEADER_BYTES + worker * _COLUMN_BYTES
        start = self._offset + 64
        self.counts = memoryview(memory)[start : start + SLOTS_MAX * _COUNT_BYTES].cast("i")
        memory[start : start + SLOTS_MAX * _COUNT_BYTES] = bytes(SLOTS_MAX * _COUNT_BYTES)
        self._head = (pid, process_start_ticks(pid) or 0)
        self._write(0, 0)

    def acknowledge(self, routes_generation: int, keys_generation: int) -> None:
        """Say which tables are applied; call after the swap, never before (G5)."""
        self._write(routes_generation, keys_generation)

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


class GatewayView:
    """The control plane's (and any worker's) view on all columns."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory

    def _live(self) -> Iterator[tuple[int, WorkerAck]]:
        for worker in range(WORKERS_MAX):
            offset = _HEADER_BYTES + worker * _COLUMN_BYTES
            pid, started, routes, keys = _WORKER_HEAD.unpack_from(self._memory, offset)
            if pid and process_start_ticks(pid) == started:
                yield offset, WorkerAck(pid, routes, keys)

    def workers(self) -> list[WorkerAck]:
        return [ack for _, ack in self._live()]

    def routes_acked(self) -> int | None:
        """The generation every live worker has applied; None when no worker lives.

        A worker that starts later reads the newest table before it listens, so None may be taken as
        'nobody routes by an older table'.
        """
        return min((ack.routes_generation for ack in self.workers()), default=None)

    def in_flight(self, slot: int) -> int:
        """Requests on this replica slot over all live workers; a dead worker's streams are gone with it."""
        total = 0
        for offset, _ in self._live():
            (count,) = struct.unpack_from("<i", self._memory, offset + 64 + slot * _COUNT_BYTES)
            total += max(0, count)
        return total

    def in_flight_all(self) -> array[int]:
        """As `in_flight`, for every slot at once; cheap enough for each routing decision of a busy worker."""
        totals = array("i", bytes(SLOTS_MAX * _COUNT_BYTES))
        for offset, _ in self._live():
            column = array("i")
            column.frombytes(self._memory[offset + 64 : offset + 64 + SLOTS_MAX * _COUNT_BYTES])
            for slot, count in enumerate(column):
                if count > 0:
                    totals[slot] += count
        return totals
