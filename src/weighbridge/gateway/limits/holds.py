"""Requests that wait because their endpoint has no ready replica for a moment: one is being replaced or restarted.

A fair, bounded line per endpoint and worker, as in `turns`; but nobody's end frees a place here: a replica comes
or it does not. Waiting costs no task.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from weighbridge.clock import Clock
from weighbridge.errors import WeighbridgeError
from weighbridge.gateway.limits.fair_queue import FairQueue
from weighbridge.gateway.limits.refusals import NotReadyError
from weighbridge.gateway.metrics.figures import HoldFigures
from weighbridge.gateway.table import CurrentTables
from weighbridge.routing.model import EndpointRoute

LOOK_S = 0.02
"""How often a line looks whether a replica is ready."""
PACE_MIN = 8
"""Requests let go at the first look that finds a replica; twice as many at each further one."""
OUTAGE_HOLDS_MAX = 3
"""Nobody is held in an outage that has lasted this many times the longest hold: nothing speaks for its end."""


@dataclass(frozen=True, slots=True)
class HoldLimits:
    """`requests_max` is per endpoint, `bytes_max` over all; both in one worker. With `requests_max` 0 nobody is held.

    A held stream gets its head after `head_s`, and from then on can only fail by an error event.
    """

    requests_max: int = 256
    bytes_max: int = 64 * 1024 * 1024
    head_s: float = 10.0


class Waiter(Protocol):
    """A held request. Neither method raises, and neither is called once it has left."""

    def proceed(self) -> bool:
        """A replica is ready: ask it, or answer and be done. False when it is full: it stays the next."""

    def turned_away(self, error: WeighbridgeError) -> None:
        """The line is full, and this key has most in it."""


@dataclass(slots=True, eq=False)
class Held:
    """A request's stay; `in_line` until it proceeds, is turned away or leaves. Times are monotonic."""

    endpoint_id: str
    key_id: str
    size_bytes: int
    waiter: Waiter
    since_s: float
    due_s: float
    in_line: bool = True


@dataclass(slots=True)
class _Outage:
    """`pace` is how many requests the next look lets go."""

    since_s: float
    line: FairQueue[Held]
    pace: int = PACE_MIN


@dataclass(slots=True)
class Holds:
    """`ready` says whether an endpoint has a replica that may be asked now."""

    limits: HoldLimits
    current: CurrentTables
    ready: Callable[[str], bool]
    clock: Clock
    figures: dict[str, HoldFigures] = field(default_factory=dict)
    _outages: dict[str, _Outage] = field(default_factory=dict)
    _size_bytes: int = 0
    _outage_began: asyncio.Event = field(default_factory=asyncio.Event)

    def busy(self, endpoint_id: str) -> bool:
        """Whether somebody is held already; who comes later is not to overtake."""
        outage = self._outages.get(endpoint_id)
        return outage is not None and outage.line.count > 0

    def join(
        self, endpoint_id: str, key_id: str, size_bytes: int, waiter: Waiter, *, stream: bool
    ) -> Held:
        """Raises NotReadyError when waiting is not worth it, or there is no room. Whom a full line turns away,
        which may be this waiter, hears of it after this call.
        """
        now_s = self.clock.monotonic()
        endpoint = self.current.tables.endpoints.get(endpoint_id)
        if endpoint is None or not endpoint.hold_s or not self.limits.requests_max:
            raise NotReadyError(endpoint_id, self.ready_in_s(endpoint))
        outage = self._outages.get(endpoint_id)
        since_s = now_s if outage is None else outage.since_s
        # What is back is worth the moment until the line is let go, however long it was away.
        if not self.ready(endpoint_id) and not self._worth(endpoint, now_s - since_s):
            raise self._refusal(endpoint_id)
        if self._size_bytes + size_bytes > self.limits.bytes_max:
            raise self._refusal(endpoint_id)
        if outage is None:
            line: FairQueue[Held] = FairQueue(self.limits.requests_max, self.limits.bytes_max)
            outage = self._outages[endpoint_id] = _Outage(now_s, line)
            self._outage_began.set()
        held = Held(endpoint_id, key_id, size_bytes, waiter, now_s, now_s + endpoint.hold_s)
        self._size_bytes += size_bytes
        figures = self._figures(endpoint_id)
        figures.held += 1
        figures.streams += stream
        for dropped in outage.line.push(key_id, held, size_bytes):
            self._size_bytes -= dropped.size_bytes
            asyncio.get_running_loop().call_soon(self._turn_away, dropped)
        figures.waiting = outage.line.count
        return held

    def rejoin(self, held: Held) -> None:
        """Give a request its place back whose replica failed before it answered; it is the next again. Where others
        have taken the place meanwhile, the newest of the key that has most makes room. Raises NotReadyError when
        other endpoints have taken its bytes.
        """
        held.in_line = True
        line = self._outages.setdefault(
            held.endpoint_id,
            _Outage(held.since_s, FairQueue(self.limits.requests_max, self.limits.bytes_max)),
        ).line
        self._outage_began.set()
        line.push_front(held.key_id, held, held.size_bytes)
        self._size_bytes += held.size_bytes
        while line.count > self.limits.requests_max or self._size_bytes > self.limits.bytes_max:
            dropped = line.drop_newest(but=held)
            if dropped is None:
                self.leave(held)
                raise self._refusal(held.endpoint_id)
            self._size_bytes -= dropped.size_bytes
            asyncio.get_running_loop().call_soon(self._turn_away, dropped)

    def leave(self, held: Held) -> None:
        """Be held no more; nothing where its turn has come or it has ended already."""
        held.in_line = False
        outage = self._outages.get(held.endpoint_id)
        if outage is not None and outage.line.remove(held.key_id, held):
            self._size_bytes -= held.size_bytes
            self._figures(held.endpoint_id).waiting = outage.line.count

    def expired(self, held: Held) -> NotReadyError:
        """It has waited as long as may be; says what to answer."""
        self.leave(held)
        return self._refusal(held.endpoint_id)

    async def watch(self) -> None:
        """Let held requests go when a replica is ready, until cancelled."""
        while True:
            await self._outage_began.wait()
            while self._outages:
                await asyncio.sleep(LOOK_S)
                self.look()
            self._outage_began.clear()

    def look(self) -> None:
        for endpoint_id, outage in list(self._outages.items()):
            if not self.ready(endpoint_id):
                outage.pace = PACE_MIN
                continue
            self._let_go(outage)
            self._figures(endpoint_id).waiting = outage.line.count
            if not outage.line.count:
                del self._outages[endpoint_id]

    @property
    def waiting(self) -> int:
        return sum(outage.line.count for outage in self._outages.values())

    def _let_go(self, outage: _Outage) -> None:
        """Key by key, and not all at once: the replica has just come up."""
        for _ in range(outage.pace):
            held = outage.line.pop()
            if held is None:
                return
            self._size_bytes -= held.size_bytes
            held.in_line = False
            if not held.waiter.proceed():
                self.rejoin(held)
                return
            figures = self._figures(held.endpoint_id)
            figures.released += 1
            figures.held_s += self.clock.monotonic() - held.since_s
        outage.pace *= 2

    def _worth(self, endpoint: EndpointRoute, outage_s: float) -> bool:
        if outage_s > OUTAGE_HOLDS_MAX * endpoint.hold_s:
            return False
        expected_unix_s = endpoint.ready_expected_unix_s or 0.0
        return expected_unix_s - self.clock.now().timestamp() < endpoint.hold_s

    def _turn_away(self, held: Held) -> None:
        if held.in_line:
            held.in_line = False
            held.waiter.turned_away(self._refusal(held.endpoint_id))

    def _refusal(self, endpoint_id: str) -> NotReadyError:
        self._figures(endpoint_id).refused += 1
        endpoint = self.current.tables.endpoints.get(endpoint_id)
        return NotReadyError(endpoint_id, self.ready_in_s(endpoint))

    def ready_in_s(self, endpoint: EndpointRoute | None) -> float:
        """When a replica is to be expected by what earlier starts took; 0 where nothing is known."""
        if endpoint is None:
            return 0.0
        left_s = (endpoint.ready_expected_unix_s or 0.0) - self.clock.now().timestamp()
        return left_s if left_s > 0 else endpoint.start_s

    def _figures(self, endpoint_id: str) -> HoldFigures:
        """Of an endpoint that is in the table, or was: bounded by what the operator has made."""
        return self.figures.setdefault(endpoint_id, HoldFigures(endpoint_id))
