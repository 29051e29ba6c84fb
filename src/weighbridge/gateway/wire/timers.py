"""One coarse clock for all deadlines of a worker: a wheel that ticks, instead of a timer per request."""

import asyncio
import math
from typing import Final, Protocol

from weighbridge.clock import monotonic_s

TICK_S: Final = 0.05
"""Deadlines are kept to this, and never early."""


LOOK_TICKS: Final = 20
"""An item is looked at this often, however far its deadline is; so only deadlines nearer than that need the wheel."""
NOWHERE: Final = 2**62
"""The `due_tick` of an item that the wheel does not hold."""


class Timed(Protocol):
    """Something with at most one deadline at a time; the first two are the wheel's own.

    `due_s` is monotonic seconds, infinity for none; `due_tick` is where it waits, NOWHERE at first.
    """

    due_s: float
    due_tick: int

    def expired(self) -> None: ...


class Timers:
    """Moving a deadline is one assignment, unless it comes before the wheel looks at the item anyway.

    The wheel looks at an item when its turn comes, and puts it where it belongs then. While it holds nothing it
    stands still.
    """

    def __init__(self, now_s: float) -> None:
        self._tick = _tick_of(now_s)
        self._turns: dict[int, dict[Timed, None]] = {}
        self._handle: asyncio.TimerHandle | None = None
        self._started = False

    def set(self, item: Timed, due_s: float) -> None:
        item.due_s = due_s
        if due_s < item.due_tick * TICK_S:
            self._put(item, due_s)

    def clear(self, item: Timed) -> None:
        """For good: the wheel forgets the item."""
        item.due_s = math.inf
        self._take_out(item)

    def start(self) -> None:
        """Tick on the running loop until `stop`."""
        self._started = True
        if self._turns:
            self._tick_later()

    def stop(self) -> None:
        self._started = False
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def advance(self, now_s: float) -> None:
        """Call `expired` of all that is due at `now_s`."""
        first, self._tick = self._tick + 1, _tick_of(now_s)
        for tick in range(first, self._tick + 1):
            for item in self._turns.pop(tick, ()):
                if item.due_tick != tick:
                    continue  # cleared or moved by an item before it
                item.due_tick = NOWHERE
                if item.due_s <= now_s:
                    item.due_s = math.inf
                    item.expired()
                elif item.due_s != math.inf:
                    self._put(item, item.due_s)

    def _tick_later(self) -> None:
        self._handle = asyncio.get_running_loop().call_later(TICK_S, self._ticked)

    def _ticked(self) -> None:
        self.advance(monotonic_s())
        if self._turns and self._started:
            self._tick_later()
        else:
            self._handle = None

    def _put(self, item: Timed, due_s: float) -> None:
        self._take_out(item)
        if self._handle is None and self._started:
            self._tick = _tick_of(monotonic_s())
            self._tick_later()
        # One tick later than the deadline's own, so that none is early.
        latest = self._tick + LOOK_TICKS
        tick = latest if due_s >= latest * TICK_S else max(_tick_of(due_s), self._tick) + 1
        item.due_tick = tick
        self._turns.setdefault(tick, {})[item] = None

    def _take_out(self, item: Timed) -> None:
        turn = self._turns.get(item.due_tick)
        if turn is not None:
            turn.pop(item, None)
        item.due_tick = NOWHERE


def _tick_of(moment_s: float) -> int:
    return int(moment_s / TICK_S)
