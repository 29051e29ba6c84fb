"""A control plane: the real reconcilers in their real loops, as a process that can be killed, paused and restarted."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import cast

from aiohttp import ClientSession

from simulation.engines.exams import SimSession
from simulation.engines.machines import SimRuntime
from simulation.gateways.snapshots import SimPublisher, SimSnapshot
from simulation.installation.site import Site
from simulation.installation.syncing import Syncer
from simulation.memory.database import SimDatabase
from simulation.scheduler import Process
from weighbridge.acceptance.examiner import Examiner
from weighbridge.clock import ID_ALPHABET, Clock
from weighbridge.control.loop import Loop
from weighbridge.control.wake import Wake
from weighbridge.receipts.reconciler import ReceiptReconciler, SealTimes
from weighbridge.replicas.reconciler import ReplicaReconciler
from weighbridge.replicas.weights.prefetch import Prefetcher
from weighbridge.replicas.weights.ways import on_path, pulled
from weighbridge.rollouts.gate import GateLimits
from weighbridge.rollouts.reconciler import RolloutReconciler, nothing_fetched, rollout_limits
from weighbridge.routing.hosts.view import AllHosts, Gateways, OneHost
from weighbridge.routing.model import KeyTable, RouteTable
from weighbridge.server.roles.leading import ControllerLease
from weighbridge.settings import Settings
from weighbridge.storage import lease as leases
from weighbridge.storage.pruning import prune
from weighbridge.weights.node.source import WeightSource

SETTINGS = Settings(
    data_dir=Path("/simulated"),
    min_ready_s=2.0,
    bake_s=3.0,
    rollout_progress_s=40.0,
    rollout_total_s=240.0,
    rollback_progress_s=60.0,
    capacity_wait_s=30.0,
    deployment_queue_max=4,
    probe_period_s=4.0,
    probe_start_period_s=0.6,
    probe_timeout_s=2.0,
    probe_generate_s=12.0,
    drain_deadline_s=20.0,
    replica_stop_grace_s=3.0,
    gate_requests_min=0,
)
LIMITS = replace(
    rollout_limits(SETTINGS), upkeep_backoff_s=(1.0, 5.0, 15.0), failures_window_s=60.0
)
GATED = replace(LIMITS, gate=GateLimits(requests_min=10), gate_base_s=60.0)
"""Where requests are counted."""
PEPPER = b"p" * 32
SOURCE = WeightSource("http://weights")
SEALS = SealTimes(settle_s=5.0, abandon_s=60.0)
PRUNE_PERIOD_S = 40.0
OWN_HOST = "control"


class ControlPlane:
    """One start of a control process named `name`; a killed one is gone, its successor is a new object."""

    def __init__(self, site: Site, name: str) -> None:
        self.site = site
        self.name = name
        self.process = Process(name, self._died)
        self.database = SimDatabase(site.server)
        self.wake = Wake()
        self.clock = self._clock()
        self.runtime = SimRuntime(site.machines, site.steps)
        self.keeper = ControllerLease(self.database, f"holder-{name}", self.clock)

    def _clock(self) -> Clock:
        site = self.site
        began, began_s = site.wall(), site.loop.time()
        return Clock(
            now=lambda: began + timedelta(seconds=site.loop.time() - began_s),
            monotonic=lambda: site.loop.time() + began_s,
            new_uuid=self._new_id,
            new_short_id=self._new_id,
            new_secret=self._new_id,
            boot_s=site.loop.time,
            boot_id=lambda: "boot",
        )

    def _new_id(self) -> str:
        return "".join(self.site.chance.choices(ID_ALPHABET, k=6))

    def start(self) -> None:
        self.site.log.add("control.started", self.name)
        self.site.loop.spawn(self.process, self._run())

    def kill(self) -> None:
        self.process.kill()

    def _died(self, process: Process) -> None:
        self.site.log.add("control.died", self.name)
        self.site.server.died(process)

    async def _run(self) -> None:
        for loop in self._loops():
            self.site.loop.spawn(self.process, loop.run())

    def _loops(self) -> list[Loop]:
        site, current = self.site, self.keeper.current
        weights_of = on_path(site.weights)
        if site.machines.pulls is not None:
            weights_of = pulled(site.weights.version_dir, lambda digest, size_bytes: SOURCE)
        prefetcher = Prefetcher(
            self.runtime,
            weights_of,
            site.weights.manifest,
            monotonic=self.clock.monotonic,
            wake=self.wake,
        )
        rollouts = RolloutReconciler(
            self.database,
            self.clock,
            self.wake,
            current,
            limits=site.limits,
            fetching=nothing_fetched if site.machines.pulls is None else prefetcher.fetching,
        )
        replicas = ReplicaReconciler(
            database=self.database,
            clock=self.clock,
            wake=self.wake,
            runtime=self.runtime,
            engines=site.engines,
            store=site.weights,
            gateways=self._gateways(),
            pepper=PEPPER,
            settings=SETTINGS,
            lease_of=current,
            examiner=self._examiner(),
            weights_of=weights_of,
        )
        sealing = ReceiptReconciler(self.database, self.clock, current, times=SEALS)
        syncer = Syncer(site, self.database, f"holder-{self.name}")
        passes: dict[str, Callable[[], Awaitable[float]]] = {
            "lease": self.keeper.keep,
            "rollouts": rollouts.reconcile,
            "replicas": replicas.reconcile,
            "routes": self._publisher().reconcile,
            "ingest": syncer.reconcile,
            "receipts": sealing.reconcile,
        }
        if site.machines.pulls is not None:
            passes["prefetch"] = prefetcher.reconcile
        pruning = Loop("pruning", self._prune, self.wake, PRUNE_PERIOD_S)
        return [pruning, *(Loop(name, step, self.wake) for name, step in passes.items())]

    def _publisher(self) -> SimPublisher:
        site = self.site
        publisher = SimPublisher(
            self.database,
            self.clock,
            self.wake,
            SETTINGS.paths,
            engines=site.engines,
            lease_of=self.keeper.current,
            hold_s=site.hold_s,
            tell=site.tell,
        )
        publisher.keep_in(
            SimSnapshot(site.routes, RouteTable, site.loop, site.steps),
            SimSnapshot(site.keys, KeyTable, site.loop, site.steps),
        )
        return publisher

    def _gateways(self) -> Gateways:
        site, view = self.site, self.site.gateway.view
        if len(site.gateways) == 1:
            return OneHost(view)
        return AllHosts(view, OWN_HOST, site.loop.time, waits=True)

    def _examiner(self) -> Examiner | None:
        if not self.site.examined:
            return None
        session = SimSession(self.site.machines, self.site.manners, self.site.log)
        return Examiner(cast("ClientSession", session), self.wake)  # it only posts

    async def _prune(self) -> float:
        async with self.database.begin() as tx:
            await leases.require(tx, self.keeper.current())
            await prune(tx, self.clock.now())
        return PRUNE_PERIOD_S

    def serve(self, work: Callable[["ControlPlane"], Awaitable[None]]) -> None:
        """Answer a request of the management API in this process."""
        self.site.loop.spawn(self.process, self._answer(partial(work, self)))

    async def _answer(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - as the edge of a web server does
            self.site.loop.broken.append(error)
