"""One request at a gateway: which replicas it is sent to, how it fails or is held, and the record it leaves."""

from collections.abc import Callable
from enum import Enum
from random import Random
from typing import Protocol

from simulation.engines.machines import Engine, Machines
from simulation.engines.manners import ALIKE, Manner
from simulation.gateways.holds import LOOK_S, Caller, retry_after_s
from simulation.gateways.workers import SimGatewayView, Worker
from simulation.history.log import Log
from simulation.scheduler import SimLoop
from weighbridge.errors import WeighbridgeError
from weighbridge.gateway.balance import groups, pick
from weighbridge.gateway.limits.holds import Held
from weighbridge.gateway.limits.refusals import NotReadyError
from weighbridge.gateway.proxy.failures import engine_failed, no_answer
from weighbridge.routing.model import EndpointRoute, ReplicaRoute
from weighbridge.usage.model import NO_VERSION, UsageEvent

RETRIES_MAX = 2
FIRST_BYTE_S = 0.05
FIRST_BYTE_MAX_S = 0.5
"""A replica that says nothing for so long is given up."""
DONE = 200
STATUSES = {"done": DONE, "unknown": 404, "cut": 502, "failed": 503, "unavailable": 503}
"""By the end of a request; one that ends with its worker leaves no record."""


class Failed(Enum):
    """How the replica that was asked last has failed."""

    NOT = 0
    UNREACHABLE = 1
    GONE = 2
    """Another is there, or it broke off before its first byte."""
    SILENT = 3
    ERROR = 4


GONE = frozenset({Failed.UNREACHABLE, Failed.GONE})
"""After these another replica is waited for, as `gateway.proxy.failures.is_gone` has it."""


class Surroundings(Protocol):
    """What a request finds at its gateway."""

    loop: SimLoop
    later: Callable[..., object]
    chance: Random
    sharing: Random
    log: Log
    machines: Machines
    manners: dict[str, Manner]
    spool: list[UsageEvent] | None
    view: SimGatewayView

    @property
    def frozen(self) -> bool: ...

    def unix_s(self) -> float: ...


class Request:
    """One request: tried on up to three replicas before its first byte, and on none after it (G3)."""

    __slots__ = (
        "_asked_s",
        "_attempts",
        "_began_s",
        "_duration_s",
        "_engine",
        "_failed",
        "_failed_version",
        "_first_s",
        "_gateway",
        "_manner",
        "_met",
        "_org_id",
        "_route",
        "_streaming",
        "_tried",
        "_worker",
        "_wrong",
        "caller",
        "endpoint_id",
        "held",
        "number",
        "over",
    )

    def __init__(
        self,
        gateway: Surroundings,
        worker: Worker,
        number: int,
        *,
        endpoint_id: str,
        org_id: str,
        duration_s: float,
        caller: Caller,
    ) -> None:
        self._gateway = gateway
        self._worker = worker
        self.number = number
        self.endpoint_id = endpoint_id
        self._org_id = org_id
        self._duration_s = duration_s
        self.caller = caller
        self.held: Held | None = None
        self._tried: set[str] = set()
        self._met: set[str] = set()
        self._wrong: set[str] = set()
        """All that were tried; those tried before it was held are tried again."""
        self._attempts = 0
        self._failed_version = NO_VERSION
        self._failed = Failed.NOT
        self._route: ReplicaRoute | None = None
        self._engine: Engine | None = None
        self._streaming = False
        self._manner = ALIKE
        self._began_s = self._asked_s = gateway.loop.time()
        self._first_s: float | None = None
        self.over = False

    def begin(self) -> None:
        endpoint = self._worker.tables.endpoint(self.endpoint_id, self._org_id)
        if endpoint is None:
            self._end("unknown")
            return
        self._worker.requests[self] = None
        line = self._worker.line
        if line is not None and line.holds.busy(self.endpoint_id):
            self._unanswered()
        else:
            self._try(endpoint)

    def proceed(self) -> bool:
        """As the line asks: a replica is ready."""
        line = self._worker.line
        if line is not None and self._worker.alive and not self.over:
            line.freed(self, "proceeds")
            self._failed = Failed.NOT
            self._try(self._worker.tables.endpoints.get(self.endpoint_id))
        return True

    def turned_away(self, error: WeighbridgeError) -> None:
        """As the line asks: it has waited long enough, or has to make room."""
        line = self._worker.line
        if line is not None and self._worker.alive and not self.over:
            line.freed(self, "turned away")
            self._end("unavailable", error)

    def left(self) -> None:
        """Its client has waited long enough."""
        line = self._worker.line
        if line is not None and self._worker.alive:
            line.freed(self, "left")
            self._end("left")

    def _try(self, endpoint: EndpointRoute | None) -> None:
        gateway, worker = self._gateway, self._worker
        counts = worker.counts
        route = self._choose(endpoint)
        if route is None or self._attempts > RETRIES_MAX:
            self._unanswered()
            return
        self._attempts += 1
        self._asked_s = gateway.loop.time()
        self._route = route
        self._tried.add(route.replica_id)
        self._met.add(route.replica_id)
        counts[route.slot] = counts.get(route.slot, 0) + 1
        gateway.log.add(
            "sent",
            worker=worker.name,
            request=self.number,
            replica=route.replica_id,
            version=route.version,
            generation=worker.tables.routes_generation,
        )
        gateway.later(0.001 + 0.003 * gateway.chance.random(), self._arrive)

    def _unanswered(self) -> None:
        """Nobody is left to ask: wait for one that comes back, where `gateway.proxy.waiting` does."""
        line, failed = self._worker.line, self._failed
        outcome = "failed" if failed is Failed.ERROR else "unavailable"
        if line is None:
            self._end(outcome)
            return
        if failed is Failed.UNREACHABLE:
            # Nothing was sent, so it was no attempt that could have done anything.
            self._attempts -= 1
        gone = failed in GONE and self._attempts <= RETRIES_MAX
        if not gone and failed is not Failed.NOT:
            self._end(outcome, no_answer(self.endpoint_id, engine_failed(failed.name)))
            return
        self._tried.clear()
        try:
            line.enter(self)
        except NotReadyError as refusal:
            self._end("unavailable", refusal)

    def _choose(self, endpoint: EndpointRoute | None) -> ReplicaRoute | None:
        """The versions in the order of the share, where there is one, as `gateway.proxy.choosing` has it."""
        gateway = self._gateway
        in_flight, tie = gateway.view.in_flight, gateway.chance.random()
        if endpoint is None:
            return None
        share = endpoint.share
        line = self._worker.line
        cooling = set() if line is None else line.cooling()
        if share is None:
            chosen = pick(endpoint.replicas, in_flight, tie, self._tried | cooling)
            return chosen or pick(endpoint.replicas, in_flight, tie, self._tried)
        meant, others = groups(endpoint.replicas, share, gateway.sharing.random())
        chosen = pick(meant, in_flight, tie, self._tried)
        if chosen is None:
            chosen = pick(others, in_flight, tie, self._tried)
        if chosen is not None and not self._tried and meant and others:
            gateway.log.add(
                "shared",
                worker=self._worker.name,
                request=self.number,
                version=share.version,
                percent=share.percent,
                hit=chosen.version == share.version,
            )
        return chosen

    def _arrive(self) -> None:
        """Its bytes reach the address; a stranger there refuses the token (G12)."""
        if self.over:
            return
        route, gateway = self._route, self._gateway
        assert route is not None
        engine = gateway.machines.at(route.url)
        if engine is None:
            self._refused(Failed.UNREACHABLE)
        elif engine.spec.name != route.replica_id:
            self._refused(Failed.GONE)
        elif not gateway.machines.serves(engine):
            self._engine = engine
            engine.streams[self] = None
            gateway.later(FIRST_BYTE_MAX_S, self._silent, engine)
        else:
            manner = self._manner = gateway.manners.get(engine.spec.weights.digest, ALIKE)
            if manner.errors and gateway.sharing.random() < manner.errors:
                # Another one is asked, and answers or not.
                self._failed_version = self._failed_version or route.version
                self._wrong.add(route.replica_id)
                self._refused(Failed.ERROR)
                return
            self._engine = engine
            engine.streams[self] = None
            gateway.later(
                max(manner.first_token_s, min(FIRST_BYTE_S, self._duration_s)), self._first_byte
            )

    def _silent(self, engine: Engine) -> None:
        """As long as it is there: a process that ends breaks its connections off."""
        if not self.over and self._engine is engine:
            self._engine = None
            engine.streams.pop(self, None)
            self._refused(Failed.SILENT)

    def _refused(self, how: "Failed") -> None:
        self._let_go()
        self._failed = how
        if self._worker.line is not None and self._route is not None:
            self._worker.line.failed(self._route.replica_id, gone=how in GONE)
        self._try(self._worker.tables.endpoints.get(self.endpoint_id))

    def _first_byte(self) -> None:
        if self.over or self._engine is None:
            return
        self._streaming = True
        self._first_s = self._gateway.loop.time() - self._began_s
        self._gateway.later(self._duration_s, self._done, self._engine)

    def _done(self, engine: Engine) -> None:
        if not self.over and self._engine is engine:
            engine.streams.pop(self, None)
            self._let_go()
            self._end("done")

    def cut(self) -> None:
        """Its process has ended."""
        if self.over:
            return
        if self._gateway.frozen:
            self._gateway.later(0.0, self.cut)
            return
        self._engine = None
        if self._streaming:
            self._let_go()
            self._end("cut")
        else:
            self._refused(Failed.GONE)

    def abandon(self) -> None:
        """Its worker has died, so the replica sees a caller who left."""
        if self._engine is not None:
            self._engine.streams.pop(self, None)
        self._end("worker died")

    def _let_go(self) -> None:
        if self._route is not None and self._worker.alive:
            self._worker.counts[self._route.slot] -= 1

    def _end(self, outcome: str, refusal: WeighbridgeError | None = None) -> None:
        self.over = True
        self._worker.requests.pop(self, None)
        route = self._route
        self._count(outcome)
        self._gateway.log.add(
            "request",
            worker=self._worker.name,
            request=self.number,
            endpoint=self.endpoint_id,
            outcome=outcome,
            tries=self._attempts,
            replica="" if route is None else route.replica_id,
            generation=self._worker.tables.routes_generation,
            late=self._late(),
            failure=self._failure(outcome),
            waited=self._waited(outcome, refusal),
        )

    def _late(self) -> bool:
        """Whether its worker has not seen the newest table, or so lately that its line stands still."""
        caught_up_s = self._worker.was_late_s + 2 * LOOK_S
        return self._worker.late_s > 0 or self._gateway.loop.time() < caught_up_s

    def _waited(self, outcome: str, refusal: WeighbridgeError | None) -> dict[str, object]:
        """What a reader wants to know of a request that found no replica, where requests are held."""
        line = self._worker.line
        if line is None or outcome != "unavailable":
            return {}
        # Who has met a silent replica is not held, by design: waiting anew would only double the wait.
        by_line = self.held is None and isinstance(refusal, NotReadyError)
        would = line.would_hold(self) if by_line else {}
        told_s = 0.0 if refusal is None else retry_after_s(refusal)
        return {"held": self.held is not None, "retry_after_s": told_s, **would}

    def _count(self, outcome: str) -> None:
        """As an access record ends: under the version that was asked last."""
        gateway = self._gateway
        status = STATUSES.get(outcome)
        if gateway.spool is None or status is None:
            return
        manner = self._manner
        empty = bool(manner.empty) and gateway.sharing.random() < manner.empty
        gateway.spool.append(
            UsageEvent(
                ended_unix_s=gateway.unix_s(),
                org_id=self._org_id,
                key_id="key_1",
                endpoint_id=self.endpoint_id,
                version=NO_VERSION if self._route is None else self._route.version,
                status=status,
                prompt_tokens=1,
                cached_tokens=0,
                completion_tokens=0 if empty or status != DONE else 1,
                estimated=False,
                duration_s=gateway.loop.time() - self._began_s,
                queue_s=0.0,
                ttft_s=self._first_s,
                failed_version=self._failed_version,
                asked_s=self._asked_s - self._began_s,
                cut=outcome == "cut",
            )
        )

    def _failure(self, outcome: str) -> dict[str, object]:
        """What a reader wants to know of one that nobody answered."""
        if outcome not in ("unavailable", "unknown"):
            return {}
        machines = self._gateway.machines
        healthy = [name for name, engine in machines.engines.items() if machines.serves(engine)]
        return {"tried": sorted(self._met), "wrong": sorted(self._wrong), "healthy": healthy}
