"""Gateway hosts beside the control plane's: workers, and the product's own courier between them and the database."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random

from simulation.gateways.snapshots import File, SimSnapshot
from simulation.installation.control import SETTINGS
from simulation.installation.site import Site
from simulation.memory.database import SimDatabase, Way
from simulation.scheduler import Process
from weighbridge.control.wake import Wake
from weighbridge.errors import SetupError, StaleError, UnavailableError
from weighbridge.gateway.courier.child import READY_WAIT_S, REFUSED_PAUSE_S
from weighbridge.gateway.courier.reports import Reports
from weighbridge.gateway.courier.rounds import Courier
from weighbridge.gateway.courier.tables import Tables
from weighbridge.routing.hosts.identity import HostIdentity
from weighbridge.routing.model import KeyTable, RouteTable
from weighbridge.routing.published import WAKE

PLACE = "elsewhere"
STOP_LOOK_S = 0.5
AGAIN_S = 1.0
"""From the end of a gateway to its next start, at least."""


class SimTables(Tables):
    """A host's tables on simulated files; there are no secrets."""

    def keep_in(self, routes: SimSnapshot[RouteTable], keys: SimSnapshot[KeyTable]) -> None:
        self._routes_file = routes
        self._keys_file = keys

    def _check_pepper(self, marks: list[str]) -> None:
        pass


async def _fits() -> None:
    """Every program here is for the schema that is in memory."""


class CourierProcess:
    """One start of a host's courier; `ready` is called when it has brought the tables, or tried to, or died; `refused`
    when it says that this host cannot serve.
    """

    def __init__(
        self, site: Site, host: "Host", ready: Callable[[], None], refused: Callable[[], None]
    ) -> None:
        self._site = site
        self._ready = ready
        self._refused = refused
        self._tasks: list[asyncio.Task[object]] = []
        self.process = Process(f"{host.name}.courier", self._died)
        self.wake = Wake()
        database = SimDatabase(site.server, host.way)
        tables = SimTables(database, SETTINGS.paths, Path("/simulated/secrets"), PLACE)
        tables.keep_in(
            SimSnapshot(host.routes, RouteTable, site.loop, site.steps),
            SimSnapshot(host.keys, KeyTable, site.loop, site.steps),
        )
        reports = Reports(database, host.identity, host.gateway.view, tables, site.loop.time)
        self.courier = Courier(
            database,
            tables,
            reports,
            self.wake,
            require_schema=_fits,
            answered=lambda looked_unix_s, reported_unix_s: None,
            unix_s=site.loop.time,
        )

    def start(self) -> None:
        self._site.loop.spawn(self.process, self._guarded(self._carry))

    def stop(self) -> None:
        """As by SIGTERM, once the workers have ended."""
        self._site.loop.spawn(self.process, self._guarded(self._leave))

    async def _carry(self) -> None:
        try:
            await self.courier.look_first()
        except SetupError:
            self._refused()
            self.process.kill()
            return
        self._ready()
        works = (self.courier.bring, self.courier.report)
        loop = self._site.loop
        self._tasks = [loop.spawn(self.process, self._guarded(work)) for work in works]

    async def _leave(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(UnavailableError, StaleError):
            await self.courier.leave()
        self.process.kill()

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody has foreseen it
            self._site.loop.broken.append(error)

    def _died(self, process: Process) -> None:
        self._site.server.died(process)
        self._ready()


class Host:
    """One machine. Its processes are `machine`, which runs the workers, and its courier's.

    `up`: its gateway has been started, and has neither died nor ended; `serving`: so have its workers.
    """

    def __init__(self, site: Site, name: str, workers: int, chance: Random) -> None:
        self.name = name
        self.way = Way()
        self.up = False
        self.serving = False
        self.identity = HostIdentity("", name)
        self.courier: CourierProcess | None = None
        self.machine = Process(name)
        self._site = site
        self._boots = 1
        self._starts = 0
        self._again = False
        self.gateway = site.gateway.beside(self.machine, workers, chance)
        self.routes: File[RouteTable] = File(self.gateway.published)
        self.keys: File[KeyTable] = File(lambda table: None)

    @property
    def frozen(self) -> bool:
        return self.machine.stopped

    def boot(self) -> None:
        """Unless it runs, or is lost; after its stop where it is about to. Its files are those from before."""
        self._again = self.up
        if self.up or self.gateway.lost:
            return
        if self.courier is not None:
            self.courier.process.kill()
        self.identity = HostIdentity(f"{self.name}:{self._boots}", self.name)
        workers = [worker.name for worker in self.gateway.workers]
        self._site.log.add("host.started", self.name, id=self.identity.id, workers=workers)
        self.up, self.serving = True, False
        self._starts += 1
        self.start_courier()
        self._site.loop.later(READY_WAIT_S, self._serve, self._starts)

    def start_courier(self) -> None:
        """As its parent does, unless one runs."""
        if self.up and (self.courier is None or not self.courier.process.alive):
            ready = partial(self._serve, self._starts)
            self.courier = CourierProcess(self._site, self, ready, self._refuse)
            self.courier.start()
            if self.frozen:
                self.courier.process.pause()

    def _refuse(self) -> None:
        """A gateway that was about to start ends, and is started again; one that serves tries another courier."""
        self._site.log.add("host.refused", self.name)
        if self.serving:
            self._site.loop.later(REFUSED_PAUSE_S, self.start_courier)
        else:
            self.up = False
            self._site.loop.later(AGAIN_S, self.boot)

    def _serve(self, start: int) -> None:
        if self.up and not self.serving and start == self._starts:
            self.serving, self.gateway.shut = True, False
            for worker in self.gateway.workers:
                self.gateway.restart(worker)

    def hear(self) -> None:
        """That there are newer tables, if nothing is in the way."""
        if self.courier is not None and not self.way.cut:
            self.courier.wake(WAKE)

    def cut(self) -> None:
        """No byte passes between it and the database; replicas and callers reach it as before."""
        self.way.cut = True
        if self.courier is not None:
            self._site.server.cut_off(self.courier.process)

    def freeze(self) -> None:
        for process in self._processes():
            process.pause()

    def thaw(self) -> None:
        for process in self._processes():
            process.resume()

    def stop(self) -> None:
        """In order: it takes no request, those that it has end, and then its courier takes its row away."""
        if self.up and self.serving:
            self.gateway.shut, self._again = True, False
            self._site.loop.spawn(self.machine, self._stop(self._boots))

    async def _stop(self, boots: int) -> None:
        workers = self.gateway.workers
        while any(worker.requests for worker in workers):
            await self._site.loop.pause(STOP_LOOK_S)
        if boots != self._boots or not self.up:
            return
        self._site.log.add("host.stopped", self.name)
        self.up = False
        for worker in workers:
            if worker.alive:
                self.gateway.kill(worker)
        if self.courier is not None and self.courier.process.alive:
            self.courier.stop()
        if self._again:
            self._site.loop.later(AGAIN_S, self.boot)

    def die(self) -> None:
        """All its processes, at once, and the machine: its name in the database is another from now on."""
        self._site.log.add("host.died", self.name)
        self.up, self.gateway.shut = False, True
        self._boots += 1
        self.thaw()
        for worker in self.gateway.workers:
            if worker.alive:
                self.gateway.kill(worker)
        if self.courier is not None:
            self.courier.process.kill()

    def lose(self) -> None:
        """It dies and is never seen again."""
        self.die()
        self.gateway.lost = True

    def _processes(self) -> list[Process]:
        return [self.machine, *([] if self.courier is None else [self.courier.process])]
