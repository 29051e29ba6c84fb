"""Shared memory of what limited keys and endpoints use: one column per worker, written by that worker alone.

A column is a hash table of rows, one per subject (a key or an endpoint): requests in flight, requests and
tokens charged since the column began, and the worker's view of the six buckets with its time. A reader adds
up all columns. The file's head holds a stamp that changes when a worker begins, and how often each column was
begun: a look for workers touches one page, not one of every column. The file outlives processes: a worker that
starts takes over the newest view of each subject, whoever had it, so a restart forgets no
quota. After a crash of the machine the file is as old as the kernel's last write-back.
"""

import math
import mmap
import os
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Final

from weighbridge.routing.acks import WORKERS_MAX

ROWS: Final = 8192
"""Subjects of one worker; half of them may be taken, so that probing stays short."""
ROWS_TAKEN_MAX: Final = ROWS // 2
VIEW_KEEP_S: Final = 86400.0
"""After this long without use every bucket is full again."""

IN_FLIGHT: Final = 1
REQUESTS: Final = 2
TOKENS: Final = 3
VIEW_UNIX_S: Final = 4
USED: Final = 5
"""Cells of a row; its hash is cell 0, and six cells from USED on are the buckets, in the order of WINDOWS."""
_USED_CELLS: Final = 6
_ROW_CELLS: Final = 16
_CELL_BYTES: Final = 8
_COLUMN_CELLS: Final = ROWS * _ROW_CELLS
_COLUMN_BYTES: Final = _COLUMN_CELLS * _CELL_BYTES
_MAGIC: Final = b"WBUSED02"
_STAMP_OFFSET: Final = 8
_EPOCHS_OFFSET: Final = 64
_FILE_HEAD_BYTES: Final = 4096
"""A page, so that columns begin and end with pages."""
FILE_BYTES: Final = _FILE_HEAD_BYTES + WORKERS_MAX * _COLUMN_BYTES


def open_ledger(path: Path) -> mmap.mmap:
    """Map the file (sparse), making it on first use; one of another layout is begun anew."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        # Zeros: another worker is making it at this moment.
        if os.pread(descriptor, len(_MAGIC), 0) not in (b"", bytes(len(_MAGIC)), _MAGIC):
            os.ftruncate(descriptor, 0)
        os.ftruncate(descriptor, FILE_BYTES)
        memory = mmap.mmap(descriptor, FILE_BYTES)
    finally:
        os.close(descriptor)
    # A hash table is read here and there: what lies beside a row need not be read ahead.
    memory.madvise(mmap.MADV_RANDOM)
    memory[: len(_MAGIC)] = _MAGIC
    return memory


def subject_hash(kind: str, subject_id: str) -> int:
    """Never 0, which marks a free row."""
    digest = blake2b(f"{kind}:{subject_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


@dataclass(frozen=True, slots=True)
class View:
    """How the buckets of a subject stood for some worker, at a unix time."""

    unix_s: float
    used: tuple[float, ...]

    def or_newer(self, other: "View") -> "View":
        """The later of the two; of the same moment, what is used by either."""
        if self.unix_s != other.unix_s:
            return self if self.unix_s > other.unix_s else other
        return View(self.unix_s, tuple(map(max, self.used, other.used)))


class Column:
    """One worker's table. Only `Column.begin`, `insert` and whoever holds a row of the own column write."""

    def __init__(self, memory: mmap.mmap, worker: int) -> None:
        self._memory = memory
        self._worker = worker
        self._epochs = memoryview(memory)[
            _EPOCHS_OFFSET : _EPOCHS_OFFSET + WORKERS_MAX * _CELL_BYTES
        ].cast("Q")
        self._start = _FILE_HEAD_BYTES + worker * _COLUMN_BYTES
        raw = memoryview(memory)[self._start : self._start + _COLUMN_BYTES]
        self._words = raw.cast("Q")
        self.cells = raw.cast("d")
        self._taken = 0

    @property
    def epoch(self) -> int:
        """Another one means that the worker is another and its totals began again at 0."""
        return self._epochs[self._worker]

    def begin(self) -> None:
        """Forget everything; for the worker that takes this column over."""
        self._clear()
        self._epochs[self._worker] += 1
        self._taken = 0

    def find(self, subject: int) -> int | None:
        """The first cell of a subject's row."""
        cell = self._probe(subject)
        return cell if self._words[cell] == subject else None

    def insert(self, subject: int) -> int | None:
        """As `find`, making the row; None when the table is as full as it may be."""
        cell = self._probe(subject)
        if self._words[cell] == subject:
            return cell
        if self._taken >= ROWS_TAKEN_MAX:
            return None
        self._taken += 1
        self._words[cell] = subject
        return cell

    def view(self, row: int) -> View:
        return View(
            self.cells[row + VIEW_UNIX_S], tuple(self.cells[row + USED : row + USED + _USED_CELLS])
        )

    def views(self) -> dict[int, View]:
        """Every subject's view; a table nobody wrote costs little."""
        found = {}
        for cell in range(0, _COLUMN_CELLS, _ROW_CELLS):
            if self._words[cell]:
                found[self._words[cell]] = self.view(cell)
        return found

    def _clear(self) -> None:
        """As a hole of the file, which takes no memory; file systems without holes get zeros."""
        with suppress(OSError):
            self._memory.madvise(mmap.MADV_REMOVE, self._start, _COLUMN_BYTES)
            return
        self._words[:] = memoryview(bytes(_COLUMN_BYTES)).cast("Q")

    def _probe(self, subject: int) -> int:
        place = subject % ROWS
        for _ in range(ROWS):
            cell = place * _ROW_CELLS
            if self._words[cell] in (0, subject):
                return cell
            place = (place + 1) % ROWS
        raise AssertionError("a table is never full")


class Ledger:
    """A worker's access: its own column, begun anew with the views that any column held, and the others'."""

    def __init__(self, memory: mmap.mmap, worker: int, now_unix_s: float) -> None:
        self._all = tuple(Column(memory, number) for number in range(WORKERS_MAX))
        self._stamp = memoryview(memory)[_STAMP_OFFSET : _STAMP_OFFSET + _CELL_BYTES].cast("d")
        self.worker = worker
        self.own = self._all[worker]
        views = self._newest(now_unix_s)
        self.own.begin()
        for subject, view in views.items():
            row = self.own.insert(subject)
            if row is not None:
                self.own.cells[row + VIEW_UNIX_S] = view.unix_s
                for number, used in enumerate(view.used):
                    self.own.cells[row + USED + number] = used
        # Last, so that whoever sees it sees the new epoch; a later begin may have the same time, never the same stamp.
        self._stamp[0] = max(now_unix_s, math.nextafter(self._stamp[0], math.inf))

    @property
    def stamp(self) -> float:
        """Another one than before means that some worker has begun."""
        return self._stamp[0]

    def epochs(self) -> dict[int, int]:
        """Of every column that some worker has begun, dead ones too."""
        return {number: column.epoch for number, column in enumerate(self._all) if column.epoch}

    def column(self, worker: int) -> Column:
        return self._all[worker]

    def _newest(self, now_unix_s: float) -> dict[int, View]:
        newest: dict[int, View] = {}
        for column in self._all:
            if not column.epoch:
                continue
            for subject, view in column.views().items():
                if now_unix_s - view.unix_s < VIEW_KEEP_S and any(view.used):
                    newest[subject] = newest.get(subject, view).or_newer(view)
        return newest
