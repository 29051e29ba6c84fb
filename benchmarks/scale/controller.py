"""A controller of the fleet in a process of its own, so that its memory is its own: measures, and prints JSON.

    python -m benchmarks.scale.controller '{"url": …, "postgres": …, "data": …, "endpoints": …}'

With `"lead": true` it only leads, with the real loops, until its stdin ends.
"""

import asyncio
import gc
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import aiohttp
import uvloop
from sqlalchemy import text

from benchmarks.planner import Engine, Weights
from benchmarks.scale.counting import Cost, Meter, database_cpu_ms, memory_mib
from benchmarks.scale.fleet import NODES, Fleet
from weighbridge.clock import Clock
from weighbridge.control.announce import SharedWake
from weighbridge.control.loop import Loop
from weighbridge.control.wake import Wake
from weighbridge.engines.base import EngineLaunch, EngineSettings, ProbeOutcome
from weighbridge.engines.catalog import engines
from weighbridge.receipts.reconciler import ReceiptReconciler, SealTimes
from weighbridge.replicas.reconciler import ReplicaReconciler
from weighbridge.replicas.routes import RoutesPublisher
from weighbridge.rollouts.reconciler import RolloutReconciler, rollout_limits
from weighbridge.routing.acks import GatewayView, open_acks
from weighbridge.routing.hosts.view import AllHosts
from weighbridge.runtimes.process import ProcessRuntime
from weighbridge.settings import Settings
from weighbridge.storage import lease
from weighbridge.storage.database import Database
from weighbridge.telemetry.logs import configure_logs

PASSES = 7
CHANGES = 3
SETTLE_S = 2.1
"""More than a probe period, so that each pass asks every replica."""
PAUSE_S = 1.2
"""More than the pause before what was lost is replaced."""
WHOLE_LIMIT_S = 120.0
REST_S = 10.0
PROBES = 2_000
LEAD_TTL_S = 3_600.0


class Control:
    """The reconcilers that a pass is made of, as the control process puts them together.

    The engines answer at once: what their answers cost is measured apart.
    """

    def __init__(self, database: Database, held: lease.Lease, data: Path) -> None:
        self.database, self.wake = database, Wake()
        clock, settings = Clock(), Settings(data_dir=data)
        settings.paths.run.mkdir(parents=True, exist_ok=True)
        self.engine = Engine()
        known = {"llamacpp": self.engine}
        shared = SharedWake(database, self.wake, "bench")
        rollouts = RolloutReconciler(
            database, clock, self.wake, lambda: held, limits=rollout_limits(settings)
        )
        self.replicas = ReplicaReconciler(
            database=database,
            clock=clock,
            wake=self.wake,
            runtime=ProcessRuntime(settings.paths.agent_socket, epoch_of=lambda: held.epoch),
            engines=known,
            store=Weights(),
            gateways=AllHosts(
                GatewayView(open_acks(settings.paths.acks_file)), "bench", clock.boot_s, waits=True
            ),
            pepper=b"p" * 32,
            settings=settings,
            lease_of=lambda: held,
        )
        routes = RoutesPublisher(
            database,
            clock,
            self.wake,
            settings.paths,
            engines=known,
            lease_of=lambda: held,
            hold_s=settings.hold_s,
        )
        sealing = ReceiptReconciler(database, clock, lambda: held, times=SealTimes())
        self.passes = {
            "rollouts": rollouts.reconcile,
            "replicas": self.replicas.reconcile,
            "routes": routes.reconcile,
            "receipts": sealing.reconcile,
        }
        self._listening = shared.listen

    async def once(self) -> None:
        """One pass of each: replicas first, so that what they see is acted on by the others."""
        for name in ("replicas", "rollouts", "routes", "receipts"):
            await self.passes[name]()

    async def rest(self) -> None:
        """Until every probe that runs is answered."""
        asked = -1
        while asked != self.engine.asked:
            asked = self.engine.asked
            await asyncio.sleep(0.1)

    @contextmanager
    def looping(self) -> Iterator[None]:
        tasks = [
            asyncio.create_task(Loop(name, step, self.wake).run())
            for name, step in self.passes.items()
        ]
        tasks.append(asyncio.create_task(self._listening()))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()

    async def ready(self) -> int:
        async with self.database.begin() as tx:
            query = text(
                "SELECT count(*) FROM replicas WHERE state = 'ready' AND routed_at IS NOT NULL"
            )
            return int((await tx.execute(query)).scalar_one())


class Course:
    def __init__(self, control: Control, meter: Meter, fleet: Fleet, machines: "Machines") -> None:
        self.control, self.meter, self.fleet, self.machines = control, meter, fleet, machines

    async def play(self) -> dict[str, object]:
        control = self.control
        for _ in range(2):
            await control.once()
            await control.rest()
            await asyncio.sleep(SETTLE_S)
        idle, connections = [], []
        for _ in range(PASSES):
            idle.append(await self._pass())
            connections.append(await self._connections())
        share = await self._rest_percent()
        changed, whole_s = [], []
        for number in range(CHANGES):
            cost, took_s = await self._lose_nodes(number)
            changed.append(cost)
            whole_s.append(took_s)
        now_mib, peak_mib = memory_mib()
        return {
            "idle": [asdict(cost) for cost in idle],
            "changed": [asdict(cost) for cost in changed],
            "whole_again_s": whole_s,
            "rest": share,
            "connections": connections,
            "memory_mib": now_mib,
            "memory_peak_mib": peak_mib,
            "probe_ms": await probe_ms(self.machines.port),
        }

    async def _connections(self) -> float:
        async with self.control.database.begin() as tx:
            query = text(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'weighbridge'"
            )
            return float((await tx.execute(query)).scalar_one())

    async def _pass(self) -> Cost:
        cost = await self.meter.measure(self.control.once)
        await self.control.rest()
        await asyncio.sleep(SETTLE_S)
        return cost

    async def _lose_nodes(self, number: int) -> tuple[Cost, float]:
        """The pass that finds nodes lost and the one that asks for replacements; then the loops run until every
        replica is replaced and routed to.
        """
        count = self.fleet.nodes_lost
        lost = [f"node-{(number * count + k) % NODES:03}" for k in range(count)]
        self.machines.lose(lost)
        began_s = time.monotonic()
        cost = await self.meter.measure(self.control.once)
        await asyncio.sleep(PAUSE_S)
        cost += await self.meter.measure(self.control.once)
        with self.control.looping():
            while await self.control.ready() < self.fleet.replicas:
                await asyncio.sleep(0.1)
                assert time.monotonic() - began_s < WHOLE_LIMIT_S, await self.control.ready()
            took_s = time.monotonic() - began_s
        await self.control.rest()
        await asyncio.sleep(SETTLE_S)
        return cost, took_s

    async def _rest_percent(self) -> dict[str, float]:
        """Shares of one core while the loops run and nothing happens."""
        with self.control.looping():
            await asyncio.sleep(2.0)
            cost = await self.meter.measure(lambda: asyncio.sleep(REST_S))
        return {
            "controller_percent": cost.cpu_ms / cost.wall_ms * 100,
            "database_percent": cost.database_cpu_ms / cost.wall_ms * 100,
            "statements_per_s": cost.statements / cost.wall_ms * 1000,
        }


async def probe_ms(port: int) -> float:
    """CPU of this process per probe of a ready replica over HTTP, thirty-two at once as the prober makes them."""
    names = iter(range(PROBES))
    async with aiohttp.ClientSession() as session:
        engine = engines(session)["llamacpp"]

        async def ask() -> None:
            for number in names:
                launch = EngineLaunch(
                    f"r{number}", "d" * 64, f"s{number}", "t", EngineSettings(), "/c"
                )
                url = f"http://127.0.0.1:{port}/{launch.served_name}"
                result = await engine.probe(url, launch, generate=False)
                assert result.outcome is ProbeOutcome.READY, result

        began = time.process_time()
        await asyncio.gather(*(ask() for _ in range(32)))
        return (time.process_time() - began) / PROBES * 1000


class Machines:
    """The recorded nodes, in a process of their own."""

    def __init__(self, socket: Path, endpoints: int) -> None:
        socket.parent.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.scale.machines", str(socket), str(endpoints)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def lose(self, nodes: list[str]) -> None:
        assert self._process.stdin is not None
        print(*nodes, file=self._process.stdin, flush=True)

    def close(self) -> None:
        self._process.communicate(timeout=30)


async def run(given: dict) -> dict[str, object]:
    fleet, data = Fleet(given["endpoints"]), Path(given["data"])
    machines = Machines(Settings(data_dir=data).paths.agent_socket, fleet.endpoints)
    database = Database(given["url"])
    try:
        async with database.begin() as tx:
            held = await lease.acquire(tx, "controller", "benchmark", ttl_s=LEAD_TTL_S)
        assert held is not None
        control = Control(database, held, data)
        gc.freeze()  # as the control process does
        try:
            if given.get("lead"):
                return await _lead(control, Path(given["postgres"]))
            meter = Meter(database, Path(given["postgres"]))
            return await Course(control, meter, fleet, machines).play()
        finally:
            await control.replicas.close()
    finally:
        await database.close()
        machines.close()


async def _lead(control: Control, postgres: Path) -> dict[str, object]:
    with control.looping():
        began_ms, began_s, began_cpu_s = (
            database_cpu_ms(postgres),
            time.monotonic(),
            time.process_time(),
        )
        print(json.dumps({"leads": await control.ready()}), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        wall_ms = (time.monotonic() - began_s) * 1000
        return {
            "controller_percent": (time.process_time() - began_cpu_s) * 1e5 / wall_ms,
            "database_percent": (database_cpu_ms(postgres) - began_ms) / wall_ms * 100,
        }


def main() -> None:
    configure_logs("bench", "warning")
    print(json.dumps(uvloop.run(run(json.loads(sys.argv[1])))), flush=True)


if __name__ == "__main__":
    main()
