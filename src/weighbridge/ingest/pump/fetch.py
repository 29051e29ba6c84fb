"""`fetch` files whose disk is taken: parts of large ones in parallel, small ones by the batch."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

import structlog

from weighbridge.ingest.pulse import Pulse
from weighbridge.ingest.pump.buffers import Buffers
from weighbridge.ingest.pump.room import SMALL_BYTES_MAX
from weighbridge.ingest.pump.staged import (
    Entry,
    FetchOrder,
    Flow,
    RangeReader,
    Staged,
    Whole,
    fetch_small,
)
from weighbridge.ingest.pump.sums import Part
from weighbridge.ingest.pump.throttle import Throttle
from weighbridge.ingest.pump.width import Width, next_width
from weighbridge.ingest.pump.writer import disk_fault
from weighbridge.ingest.s3.faults import SourceError

log = structlog.get_logger()

SMALL_FILES_PER_STEP = 32
BATCH_FILES_MAX = 1024
BATCH_BYTES_MAX = 64 * 1024 * 1024
"""A crash loses no more than this of what had come: as much as one part per worker (W6)."""
FINISHERS = 2
"""Threads that make files durable while the others read."""
STEP_S = 1.0
BUSY_RETRY_S = 0.5

Finished = Callable[[Sequence[Whole]], None]


def fetch(
    source: RangeReader,
    orders: Sequence[FetchOrder],
    pulse: Pulse,
    *,
    workers: int,
    tries_max: int,
    finished: Finished,
    throttle: Throttle | None = None,
) -> None:
    """Fetch every file; `finished(wholes)` runs in a worker once they are verified, and makes them durable.

    At most `workers` ranges are read at once; how many is found by trying. Parts that an earlier,
    interrupted call had journalled are read back and kept (W6). SourceError CHECKSUM after `tries_max`
    fetches of a file that does not verify. Blocking; the first failure stops the rest.
    """
    flow = Flow(source, pulse, throttle or Throttle(0, time.monotonic))
    with ThreadPoolExecutor(workers + FINISHERS, thread_name_prefix="fetch") as pool:
        _Pump(flow, orders, pool, workers, tries_max=tries_max, finished=finished).run()


class _Pump:
    """Owns the state of one `fetch`; only its thread changes it, workers return values."""

    def __init__(
        self,
        flow: Flow,
        orders: Sequence[FetchOrder],
        pool: ThreadPoolExecutor,
        parts_max: int,
        *,
        tries_max: int,
        finished: Finished,
    ) -> None:
        self._flow = flow
        self._pulse = flow.pulse
        self._pool = pool
        self._buffers = Buffers(parts_max)
        self._parts_max = parts_max
        self._pace = _Pace(flow.pulse, parts_max)
        self._tries_max = tries_max
        self._finished = finished
        large = [o for o in orders if o.file.size_bytes > SMALL_BYTES_MAX]
        # Those begun have room already, and make room for others once they are done.
        self._large = deque(sorted(large, key=lambda order: not order.staged.exists()))
        self._small = deque(o for o in orders if o.file.size_bytes <= SMALL_BYTES_MAX)
        self._busy: list[FetchOrder] = []
        self._full = False
        self._steps: deque[tuple[Staged, int]] = deque()
        self._wholes: list[Whole] = []
        self._tries: dict[str, int] = {}
        self._parts: dict[Future[Part], Staged] = {}
        self._files: dict[Future[None], Staged] = {}
        self._batches: dict[Future[_Batch], None] = {}
        self._publishing: dict[Future[None], None] = {}

    def run(self) -> None:
        try:
            while self._fill():
                if running := self._running():
                    wait(running, timeout=STEP_S, return_when=FIRST_COMPLETED)
                else:
                    self._pulse.pause(BUSY_RETRY_S)
                self._collect()
                self._pace.look()
        except BaseException as error:
            self._pulse.stop(error if isinstance(error, Exception) else SystemError("interrupted"))
            raise
        finally:
            wait(self._running())
            opened = [*self._parts.values(), *self._files.values(), *(s for s, _ in self._steps)]
            for staged in set(opened):
                staged.close()

    def _running(self) -> list[Future[Any]]:  # of any kind
        return [*self._parts, *self._files, *self._batches, *self._publishing]

    def _fill(self) -> bool:
        """Hand out as much as may run at once; False when nothing is left."""
        while len(self._parts) + len(self._batches) < self._pace.parts:
            if self._steps or self._open_next():
                staged, index = self._steps.popleft()
                self._parts[self._pool.submit(self._obtain, staged, index)] = staged
            elif self._small:
                taken = min(SMALL_FILES_PER_STEP, len(self._small))
                orders = [self._small.popleft() for _ in range(taken)]
                self._batches[self._pool.submit(self._obtain_small, orders)] = None
            else:
                break
        fetching = self._parts or self._batches
        if self._wholes and (not fetching or _is_batch(self._wholes)):
            wholes, self._wholes = self._wholes, []
            self._publishing[self._pool.submit(self._finished, wholes)] = None
        return bool(self._running() or self._busy)

    def _open_next(self) -> bool:
        """Open the next large file whose turn it is, and that there is room for; True when there are steps."""
        self._full = self._full and bool(self._parts or self._files)
        if self._full:
            return False
        if not self._large and not self._parts:
            self._large.extend(self._busy)
            self._busy.clear()
        for _ in range(len(self._large)):
            order = self._large.popleft()
            match order.enter():
                case Entry.BUSY:
                    self._busy.append(order)
                case Entry.HERE:
                    self._pulse.add_done(order.file.size_bytes)
                case Entry.MINE:
                    if not self._has_room(order):
                        return False
                    staged = _opened(order)
                    self._steps.extend((staged, index) for index in range(staged.part_count))
                    return True
        return False

    def _has_room(self, order: FetchOrder) -> bool:
        """False while files under way may still make some; SourceError DISK_FULL when there are none."""
        try:
            order.take_room(order)
        except SourceError:
            order.leave()
            if not (self._parts or self._files):
                raise
            self._full = True
            self._large.appendleft(order)
            return False
        except BaseException:
            order.leave()
            raise
        return True

    def _obtain(self, staged: Staged, index: int) -> Part:
        with self._buffers.take() as buffer:
            return staged.obtain(index, self._flow, buffer)

    def _obtain_small(self, orders: Sequence[FetchOrder]) -> "_Batch":
        wholes: list[Whole] = []
        wrong: list[tuple[FetchOrder, SourceError]] = []
        with self._buffers.take() as buffer:
            for order in orders:
                try:
                    wholes.append(fetch_small(order, self._flow, buffer))
                except SourceError as error:
                    if error.code != "CHECKSUM":
                        raise
                    wrong.append((order, error))
        return wholes, wrong

    def _finish(self, staged: Staged) -> None:
        self._finished([staged.finish()])
        staged.discard()

    def _collect(self) -> None:
        for part in _ended(self._parts):
            staged = self._parts[part]  # stays there if it failed: `run` closes once all have ended
            whole = staged.accept(part.result())
            del self._parts[part]
            if whole:
                self._files[self._pool.submit(self._finish, staged)] = staged
        for file in _ended(self._files):
            staged = self._files.pop(file)
            self._full = False
            staged.close()
            try:
                file.result()
            except SourceError as error:
                self._count_failure(staged.order, error)
                staged.discard()
                self._pulse.add_done(-staged.order.file.size_bytes)
                self._large.append(staged.order)
        for batch in _ended(self._batches):
            del self._batches[batch]
            wholes, wrong = batch.result()
            self._wholes += wholes
            for order, fault in wrong:
                self._count_failure(order, fault)
                self._small.append(order)
        for published in _ended(self._publishing):
            del self._publishing[published]
            published.result()

    def _count_failure(self, order: FetchOrder, error: SourceError) -> None:
        key = order.file.key
        self._tries[key] = self._tries.get(key, 0) + 1
        if error.code != "CHECKSUM" or self._tries[key] >= self._tries_max:
            raise error
        log.warning("sync.checksum_mismatch", key=key, tries=self._tries[key])


_Batch = tuple[list[Whole], list[tuple[FetchOrder, SourceError]]]


class _Pace:
    """Applies `next_width` once per step, on this pulse's clock."""

    def __init__(self, pulse: Pulse, parts_max: int) -> None:
        self._pulse = pulse
        self._parts_max = parts_max
        self._width = Width.first(parts_max)
        self._seen = (pulse.now(), pulse.bytes_received, pulse.slowdowns)

    @property
    def parts(self) -> int:
        return self._width.parts

    def look(self) -> None:
        now, received, slowdowns = (
            self._pulse.now(),
            self._pulse.bytes_received,
            self._pulse.slowdowns,
        )
        since_s = now - self._seen[0]
        if since_s < STEP_S:
            return
        width = next_width(
            self._width,
            bytes_per_s=(received - self._seen[1]) / since_s,
            slowdowns=slowdowns - self._seen[2],
            parts_max=self._parts_max,
        )
        if width.parts != self._width.parts:
            log.info("sync.width", parts=width.parts, bytes_per_s=round(width.bytes_per_s))
        self._width, self._seen = width, (now, received, slowdowns)


def _opened(order: FetchOrder) -> Staged:
    try:
        return Staged(order)
    except OSError as error:
        order.leave()
        raise disk_fault(error) from error


def _ended(futures: dict[Future[Any], Any]) -> Iterator[Future[Any]]:
    return iter([future for future in futures if future.done()])


def _is_batch(wholes: Sequence[Whole]) -> bool:
    size = sum(whole.file.size_bytes for whole in wholes)
    return len(wholes) >= BATCH_FILES_MAX or size >= BATCH_BYTES_MAX
