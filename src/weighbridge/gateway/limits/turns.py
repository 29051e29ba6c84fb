"""Waiting for a place at a replica: a fair, bounded line per endpoint and worker, with a deadline for each wait."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from weighbridge.errors import LimitError
from weighbridge.gateway.limits.fair_queue import FairQueue
from weighbridge.gateway.limits.refusals import queue_refusal
from weighbridge.gateway.table import CurrentTables
from weighbridge.routing.acks import sum_slot

LOOK_S = 0.02
"""How often a line looks whether another worker has freed a place; the own ones are noticed at once."""

Chosen = TypeVar("Chosen")


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """Of one endpoint's line in one worker. With `requests_max` 0 nobody waits."""

    wait_s: float = 10.0
    requests_max: int = 256
    bytes_max: int = 64 * 1024 * 1024


@dataclass(slots=True, eq=False)
class _Waiter:
    turn: asyncio.Future[None]


@dataclass(slots=True)
class _Line:
    queue: FairQueue[_Waiter]
    waiters: int = 0
    called: int = 0
    """Waiters whose turn it is but who have not run since."""


class Turns:
    """Nobody waits while there is a place and nobody waits already. `places(endpoint_id)` is how many there are."""

    def __init__(self, places: Callable[[str], int], limits: QueueLimits) -> None:
        self._places = places
        self._limits = limits
        self._lines: dict[str, _Line] = {}

    async def first(
        self, endpoint_id: str, key_id: str, size_bytes: int, choose: Callable[[], Chosen]
    ) -> Chosen:
        """What `choose` returns once it is this request's turn; nothing is awaited after `choose`.

        `choose` raises LimitError `queue_exceeded` while there is no place. Raises QuotaError of the same code
        when the line is full or the wait too long.
        """
        line = self._lines.get(endpoint_id)
        if line is None:
            try:
                return choose()
            except LimitError as error:
                if error.code != "queue_exceeded" or not self._limits.requests_max:
                    raise
            line = self._lines[endpoint_id] = _Line(
                FairQueue(self._limits.requests_max, self._limits.bytes_max)
            )
        return await self._wait(line, endpoint_id, key_id, size_bytes, choose)

    def freed(self, endpoint_id: str) -> None:
        """A request of this worker has ended."""
        line = self._lines.get(endpoint_id)
        if line is not None:
            self._call(line, endpoint_id)

    async def watch(self) -> None:
        """Notice what other workers free, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            for endpoint_id, line in list(self._lines.items()):
                self._call(line, endpoint_id)

    @property
    def waiting(self) -> int:
        return sum(line.queue.count for line in self._lines.values())

    async def _wait(
        self,
        line: _Line,
        endpoint_id: str,
        key_id: str,
        size_bytes: int,
        choose: Callable[[], Chosen],
    ) -> Chosen:
        loop = asyncio.get_running_loop()
        waiter = _Waiter(loop.create_future())
        line.waiters += 1
        try:
            for dropped in line.queue.push(key_id, waiter, size_bytes):
                if not dropped.turn.done():
                    dropped.turn.set_exception(queue_refusal(endpoint_id))
            self._call(line, endpoint_id)
            async with asyncio.timeout(self._limits.wait_s):
                while True:
                    await waiter.turn
                    line.called -= 1
                    waiter.turn = loop.create_future()
                    try:
                        return choose()
                    except LimitError as error:
                        if error.code != "queue_exceeded":
                            raise
                    line.queue.push_front(key_id, waiter, size_bytes)
        except TimeoutError as error:
            raise queue_refusal(endpoint_id) from error
        finally:
            self._leave(line, endpoint_id, key_id, waiter)

    def _leave(self, line: _Line, endpoint_id: str, key_id: str, waiter: _Waiter) -> None:
        line.queue.remove(key_id, waiter)
        if waiter.turn.done() and not waiter.turn.cancelled() and waiter.turn.exception() is None:
            # Called and gone in the same moment: the place is the next one's.
            line.called -= 1
            self._call(line, endpoint_id)
        line.waiters -= 1
        if not line.waiters:
            del self._lines[endpoint_id]

    def _call(self, line: _Line, endpoint_id: str) -> None:
        places = self._places(endpoint_id)
        while line.called < places:
            waiter = line.queue.pop()
            if waiter is None:
                return
            # One that is being cancelled has its future done already, and leaves by itself.
            if not waiter.turn.done():
                waiter.turn.set_result(None)
                line.called += 1


def free_places(
    current: CurrentTables, columns: "Sequence[memoryview[int]]", endpoint_id: str
) -> int:
    """Requests that the ready replicas of an endpoint could take now, over all workers.

    Without a ready replica nobody is to wait for one: then there is room for everyone's refusal.
    """
    route = current.tables.endpoints.get(endpoint_id)
    if route is None or not route.replicas:
        return 1_000_000
    return sum(
        max(0, route.in_flight_max - sum_slot(columns, replica.slot)) for replica in route.replicas
    )
