"""Waiting for a place at a replica: a fair, bounded line per endpoint and worker. Waiting costs no task."""

import asyncio
from dataclasses import dataclass
from typing import Final, Protocol

from weighbridge.errors import LimitError
from weighbridge.gateway.limits.fair_queue import FairQueue
from weighbridge.gateway.limits.refusals import queue_refusal

LOOK_S: Final = 0.02
"""How often a line looks whether another worker has freed a place; the own ones are noticed at once."""


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """Of one endpoint's line in one worker. With `requests_max` 0 nobody waits; who waits longer than `wait_s`
    leaves by itself.
    """

    wait_s: float = 10.0
    requests_max: int = 256
    bytes_max: int = 64 * 1024 * 1024


class Waiter(Protocol):
    """A request in line. Neither method raises, and neither is called once it has left."""

    def proceed(self) -> bool:
        """Its turn: take a place, or answer and be done. False when there is still none: it stays the next."""

    def turned_away(self, error: LimitError) -> None:
        """The line is full, and this key has most in it."""


@dataclass(slots=True, eq=False)
class Turn:
    """A waiter's place in line; `held` until it proceeds, is turned away or leaves."""

    endpoint_id: str
    key_id: str
    size_bytes: int
    waiter: Waiter
    held: bool = True


class Turns:
    """Nobody is to wait while there is a place and nobody waits already: ask `busy` first, then try, then `join`."""

    def __init__(self, limits: QueueLimits) -> None:
        self.limits = limits
        self._lines: dict[str, FairQueue[Turn]] = {}
        self._someone_waits = asyncio.Event()

    def busy(self, endpoint_id: str) -> bool:
        """Whether somebody waits already."""
        return endpoint_id in self._lines

    def join(self, endpoint_id: str, key_id: str, size_bytes: int, waiter: Waiter) -> Turn:
        """Whom a full line turns away, which may be this waiter, hears of it after this call."""
        line = self._lines.get(endpoint_id)
        if line is None:
            line = self._lines[endpoint_id] = FairQueue(
                self.limits.requests_max, self.limits.bytes_max
            )
            self._someone_waits.set()
        turn = Turn(endpoint_id, key_id, size_bytes, waiter)
        for dropped in line.push(key_id, turn, size_bytes):
            asyncio.get_running_loop().call_soon(_turn_away, dropped)
        self._forget_if_empty(endpoint_id)
        return turn

    def leave(self, turn: Turn) -> None:
        """Wait no more; nothing where the turn has come or ended already."""
        turn.held = False
        line = self._lines.get(turn.endpoint_id)
        if line is not None and line.remove(turn.key_id, turn):
            self._forget_if_empty(turn.endpoint_id)

    def freed(self, endpoint_id: str) -> None:
        """A request of this worker has ended. Who is next proceeds after this call."""
        if endpoint_id in self._lines:
            asyncio.get_running_loop().call_soon(self._call, endpoint_id)

    async def watch(self) -> None:
        """Notice what other workers free, until cancelled."""
        while True:
            await self._someone_waits.wait()
            while self._lines:
                await asyncio.sleep(LOOK_S)
                for endpoint_id in list(self._lines):
                    self._call(endpoint_id)
            self._someone_waits.clear()

    @property
    def waiting(self) -> int:
        return sum(line.count for line in self._lines.values())

    def _call(self, endpoint_id: str) -> None:
        """One after the other, until somebody finds no place."""
        line = self._lines.get(endpoint_id)
        while line is not None and (turn := line.pop()) is not None:
            if not turn.waiter.proceed():
                line.push_front(turn.key_id, turn, turn.size_bytes)
                return
            turn.held = False
        self._forget_if_empty(endpoint_id)

    def _forget_if_empty(self, endpoint_id: str) -> None:
        line = self._lines.get(endpoint_id)
        if line is not None and not line.count:
            del self._lines[endpoint_id]


def _turn_away(turn: Turn) -> None:
    if turn.held:
        turn.held = False
        turn.waiter.turned_away(queue_refusal(turn.endpoint_id))
