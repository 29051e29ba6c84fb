"""The gateway of one machine: its workers see the published table, and take its callers' requests."""

from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count
from random import Random

from simulation.engines.machines import Machines
from simulation.engines.manners import Manner
from simulation.gateways.holds import Caller, HoldPlan, Line
from simulation.gateways.requests import Request
from simulation.gateways.workers import SimGatewayView, Worker
from simulation.history.log import Log
from simulation.scheduler import Process, SimLoop
from weighbridge.gateway.table import EMPTY_TABLES
from weighbridge.routing.model import RouteTable
from weighbridge.usage.model import UsageEvent

SOMEBODY = Caller()
FAST_S = (0.002, 0.03)
"""How soon a worker sees a new table."""


class Gateway:
    """All workers of one machine: of the control plane's, which has no `host`, or of another."""

    def __init__(
        self,
        loop: SimLoop,
        chance: Random,
        log: Log,
        machines: Machines,
        workers: int,
        *,
        sharing: Random,
        host: Process | None = None,
    ) -> None:
        """`sharing` decides which version a request is meant for where a canary has a share of them."""
        self.loop = loop
        self.host = host
        self.later: Callable[..., object] = loop.later if host is None else loop.later_in(host)
        self.chance = chance
        self.sharing = sharing
        self.log = log
        self.machines = machines
        self._began_unix_s = log.wall().timestamp() - loop.time()
        self.manners: dict[str, Manner] = {}
        """By digest."""
        self.spool: list[UsageEvent] | None = None
        """Finished requests that are still to be counted; None: nobody counts them."""
        prefix = "" if host is None else f"{host.name}."
        self.workers = [Worker(f"{prefix}worker{n}") for n in range(workers)]
        self.holding: HoldPlan | None = None
        self.lost = False
        """Its machine, for ever."""
        self.shut = False
        """It takes no request, and no worker is started."""
        self.view = SimGatewayView(self.workers)
        self.newest: RouteTable | None = None
        self.numbers = count(1)
        """Of requests."""

    def beside(self, host: Process, workers: int, chance: Random) -> "Gateway":
        """That of another machine, whose workers are not started yet."""
        other = Gateway(
            self.loop, chance, self.log, self.machines, workers, sharing=self.sharing, host=host
        )
        other.manners, other.spool, other.numbers = self.manners, self.spool, self.numbers
        other.shut = True
        for worker in other.workers:
            worker.alive = False
        return other

    def hold(self, plan: HoldPlan) -> None:
        """Have requests wait for a replica that comes back."""
        self.holding = plan
        for worker in self.workers:
            self._open_line(worker)
        self.log.add(
            "holding",
            hold_s=plan.hold_s,
            requests_max=plan.requests_max,
            bytes_max=plan.bytes_max,
        )

    def _open_line(self, worker: Worker) -> None:
        if self.holding is not None:
            worker.line = Line(
                self.loop, self.log, worker.name, self.holding, worker.current, now=self._now
            )

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self.unix_s(), UTC)

    def unix_s(self) -> float:
        """By a clock that was set before anything happened, and is never set again."""
        return self._began_unix_s + self.loop.time()

    @property
    def frozen(self) -> bool:
        return self.host is not None and self.host.stopped

    def published(self, table: RouteTable) -> None:
        """`newest` is what lies in the file; a writer that has lost its lease may have put an older one there."""
        self.newest = table
        for worker in self.workers:
            if worker.alive:
                delay_s = self.chance.uniform(*FAST_S) + worker.late_s
                self.later(delay_s, self._look, worker)

    def _look(self, worker: Worker) -> None:
        """What lies there when it looks, which may be newer than what made it look; an older one is not taken."""
        table = self.newest
        if not worker.alive or table is None:
            return
        if table.generation <= worker.tables.routes_generation:
            return
        served = any(endpoint.replicas for endpoint in worker.tables.endpoints.values())
        worker.current.tables = worker.tables.with_routes(table)
        if worker.line is not None and served and not any(e.replicas for e in table.endpoints):
            self.log.add("emptied", worker=worker.name)
        self.log.add("applied", worker=worker.name, generation=table.generation)

    def hurry(self, worker: Worker) -> None:
        """It is late no more, and looks."""
        if worker.late_s:
            worker.late_s, worker.was_late_s = 0.0, self.loop.time()
        if self.frozen:
            self.later(0.0, self._look, worker)
        else:
            self._look(worker)

    def kill(self, worker: Worker) -> None:
        """Its streams end with it, and its counts are no longer counted."""
        worker.alive = False
        self.log.add("worker.died", worker=worker.name)
        for request in list(worker.requests):
            request.abandon()
        worker.counts.clear()

    def restart(self, worker: Worker) -> None:
        """It loads the newest table before it listens."""
        if self.shut:
            return
        worker.late_s = 0.0
        worker.current.tables = EMPTY_TABLES
        if self.newest is not None:
            worker.current.tables = worker.tables.with_routes(self.newest)
        self._open_line(worker)
        worker.alive = True
        worker.starts += 1
        generation = worker.tables.routes_generation
        self.log.add("worker.started", worker=worker.name, generation=generation)

    def call(
        self, endpoint_id: str, org_id: str, duration_s: float, caller: Caller = SOMEBODY
    ) -> None:
        """A caller's request to whichever worker takes the connection."""
        workers = [w for w in self.workers if w.alive]
        if workers and not self.frozen and not self.shut:
            worker = self.chance.choice(workers)
            Request(
                self,
                worker,
                next(self.numbers),
                endpoint_id=endpoint_id,
                org_id=org_id,
                duration_s=duration_s,
                caller=caller,
            ).begin()
