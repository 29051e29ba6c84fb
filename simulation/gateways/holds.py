"""The hold at a gateway of a world: the product's own line and limits, on the world's clock and its requests."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from simulation.history.log import Log
from simulation.scheduler import SimLoop
from weighbridge.clock import Clock
from weighbridge.errors import WeighbridgeError
from weighbridge.gateway.errors import error_answer
from weighbridge.gateway.limits.holds import Held, HoldLimits, Holds
from weighbridge.gateway.proxy.choosing import COOLING_S
from weighbridge.gateway.table import CurrentTables

LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class HoldPlan:
    """Where requests are held: for how long at most, and how many of them."""

    hold_s: float
    requests_max: int
    bytes_max: int

    @property
    def limits(self) -> HoldLimits:
        return HoldLimits(self.requests_max, self.bytes_max)


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose request it is, how large, and when its client gives up waiting (None: never)."""

    key_id: str = "key_1"
    size_bytes: int = 100
    patience_s: float | None = None


class Waiting(Protocol):
    """A request that can be held."""

    held: Held | None
    caller: Caller
    number: int
    over: bool
    endpoint_id: str

    def proceed(self) -> bool: ...
    def turned_away(self, error: WeighbridgeError) -> None: ...
    def left(self) -> None: ...


class Line:
    """Who is held at one worker, and which replicas have failed it a moment ago."""

    def __init__(
        self, loop: SimLoop, log: Log, worker: str, plan: HoldPlan, current: CurrentTables,
        *, now: Callable[[], datetime],
    ) -> None:  # fmt: skip
        self._loop = loop
        self._log = log
        self._worker = worker
        self._current = current
        self._cooling: dict[str, float] = {}
        self._gone: dict[str, float] = {}
        self._looking = False
        self.holds = Holds(plan.limits, current, self._ready, Clock(now=now, monotonic=loop.time))

    def failed(self, replica_id: str, *, gone: bool) -> None:
        until_s = self._cooling[replica_id] = self._loop.time() + COOLING_S
        if gone:
            self._gone[replica_id] = until_s

    def cooling(self) -> set[str]:
        now_s = self._loop.time()
        return {name for name, until_s in self._cooling.items() if until_s > now_s}

    def _ready(self, endpoint_id: str) -> bool:
        endpoint = self._current.tables.endpoints.get(endpoint_id)
        replicas = () if endpoint is None else endpoint.replicas
        now_s = self._loop.time()
        return any(self._gone.get(one.replica_id, 0.0) <= now_s for one in replicas)

    def enter(self, request: Waiting) -> None:
        """Also again, after a replica that failed. Raises NotReadyError."""
        holds, caller, held = self.holds, request.caller, request.held
        again = held is not None
        if held is None:
            held = request.held = holds.join(
                request.endpoint_id, caller.key_id, caller.size_bytes, request, stream=False
            )
            wait_s = held.due_s - held.since_s
            self._loop.later(wait_s, self._due, request)
            if caller.patience_s is not None:
                self._loop.later(caller.patience_s, self._leave, request)
        elif self._loop.time() < held.due_s:
            holds.rejoin(held)
        else:
            raise holds.expired(held)
        self._log.add(
            "held",
            worker=self._worker,
            request=request.number,
            key=caller.key_id,
            size=caller.size_bytes,
            again=again,
        )
        if not self._looking:
            self._looking = True
            self._loop.later(LOOK_S, self._look)

    def freed(self, request: Waiting, how: str) -> None:
        """It stands in line no more."""
        self._log.add("unheld", worker=self._worker, request=request.number, how=how)

    def would_hold(self, request: Waiting) -> Mapping[str, object]:
        """What a reader wants to know of a request that was refused at once."""
        endpoint = self._current.tables.endpoints.get(request.endpoint_id)
        if endpoint is None or endpoint.replicas:
            return {}
        return {
            "hold_s": endpoint.hold_s,
            "ready_in_s": self.holds.ready_in_s(endpoint),
            "size": request.caller.size_bytes,
        }

    def _due(self, request: Waiting) -> None:
        held = request.held
        if held is not None and held.in_line and not request.over:
            request.turned_away(self.holds.expired(held))

    def _leave(self, request: Waiting) -> None:
        held = request.held
        if held is not None and held.in_line and not request.over:
            self.holds.leave(held)
            request.left()

    def _look(self) -> None:
        """As often as the product's own watch, as long as there is anything to look for."""
        self.holds.look()
        self._looking = bool(self.holds._outages)  # noqa: SLF001 - as `watch` does
        if self._looking:
            self._loop.later(LOOK_S, self._look)


def retry_after_s(error: WeighbridgeError) -> float:
    """What a refusal says on the wire of when to ask again; 0 where it says nothing."""
    return float(error_answer(error).headers.get("retry-after", "0"))
