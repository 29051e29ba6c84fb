"""What a control plane costs when nothing has changed: CPU per pass over many endpoints, and at rest."""

import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from sqlalchemy import text

from benchmarks.harness import Candidate, Result
from weighbridge.clock import Clock
from weighbridge.control.loop import Loop
from weighbridge.control.wake import Wake
from weighbridge.engines.base import (
    EngineCapabilities,
    EngineCommand,
    EngineLaunch,
    EngineLoad,
    EngineSettings,
    ProbeOutcome,
    ProbeResult,
)
from weighbridge.replicas.reconciler import ReplicaReconciler
from weighbridge.replicas.routes import RoutesPublisher
from weighbridge.rollouts.reconciler import RolloutReconciler, rollout_limits
from weighbridge.routing.acks import GatewayView, open_acks
from weighbridge.routing.hosts.view import OneHost
from weighbridge.runtimes.base import NodeInfo, ReplicaSpec, ReplicaStatus, RuntimeState
from weighbridge.settings import Settings
from weighbridge.storage import embedded, lease
from weighbridge.storage.database import Database
from weighbridge.storage.schema.migrate import migrate

REPLICAS = 10
SIZES = (100, 300, 1_000)
PASSES = 5
REST_S = float(os.environ.get("BENCH_REST_S", "20"))

_ROWS = (
    "TRUNCATE orgs, architectures, model_versions, endpoints, deployments, replicas, leases, counters CASCADE",
    "INSERT INTO orgs (id, name, s3_external_id, created_at) VALUES ('o', 'o', 'x', now())",
    (
        "INSERT INTO architectures (id, source_uri, base_digest, tensors, engine, created_at, updated_at) "
        "VALUES ('a', '/m', 'b', '[]', '{}', now(), now())"
    ),
    (
        "INSERT INTO model_versions (id, org_id, arch_id, number, weight_uri, status, manifest_digest, bytes_total, "
        "created_at, updated_at) VALUES ('v', 'o', 'a', 1, 's3://b/p', 'done', 'd', 1000, now(), now())"
    ),
    (
        "INSERT INTO endpoints (id, org_id, arch_id, replicas, max_unavailable, max_surge, base_deployment_id, "
        "created_at, updated_at) SELECT 'e' || n, 'o', 'a', :replicas, 0, 1, 'd' || n, now(), now() "
        "FROM generate_series(1, :endpoints) n"
    ),
    (
        "INSERT INTO deployments (id, sequence, endpoint_id, org_id, arch_id, version_id, version_number, digest, "
        "fingerprint, reference, status, replicas, max_unavailable, max_surge, created_at, updated_at) "
        "SELECT 'd' || n, n, 'e' || n, 'o', 'a', 'v', 1, 'd', 'f', '1', 'done', :replicas, 0, 1, now(), now() "
        "FROM generate_series(1, :endpoints) n"
    ),
    (
        "INSERT INTO replicas (id, endpoint_id, deployment_id, version_id, version_number, digest, fingerprint, state, "
        "slot, url, incarnation, routed_generation, routed_at, created_at, state_since, ready_at) "
        "SELECT 'r-' || n || '-' || k, 'e' || n, 'd' || n, 'v', 1, 'd', 'f', 'ready', (n - 1) * :replicas + k, "
        "'http://r', 'i', 1, now(), now(), now(), now() "
        "FROM generate_series(1, :endpoints) n, generate_series(0, :replicas - 1) k"
    ),
    "ANALYZE",
)


class Engine:
    """Answers every probe at once: the cost of asking is a matter of the engines, not of the planners."""

    name = "llamacpp"

    def __init__(self) -> None:
        self.asked = 0

    def capabilities(self, settings: EngineSettings) -> EngineCapabilities:
        return EngineCapabilities()

    def command(self, launch: EngineLaunch) -> EngineCommand:
        return EngineCommand(["engine"])

    async def probe(self, url: str, launch: EngineLaunch, *, generate: bool) -> ProbeResult:
        self.asked += 1
        return ProbeResult(ProbeOutcome.READY)

    async def load(self, url: str, launch: EngineLaunch) -> EngineLoad | None:
        return None


class Running:
    """A runtime where every replica runs."""

    def __init__(self, endpoints: int) -> None:
        self._listed = [
            ReplicaStatus(
                name=f"r-{n}-{k}",
                state=RuntimeState.RUNNING,
                url="http://r",
                incarnation="i",
                node="n",
                labels={"owner": "weighbridge"},
            )
            for n in range(1, endpoints + 1)
            for k in range(REPLICAS)
        ]

    async def launch(self, spec: ReplicaSpec) -> None:
        raise AssertionError("nothing is to be started")

    async def list(self, selector: Mapping[str, str]) -> Sequence[ReplicaStatus]:
        return self._listed

    async def stop(self, name: str, grace_s: float) -> None:
        raise AssertionError("nothing is to be stopped")

    async def forget(self, name: str) -> None:
        raise AssertionError("nothing has ended")

    async def logs(self, name: str, tail_bytes: int) -> str:
        return ""

    async def capacity(self) -> Sequence[NodeInfo]:
        return []


class Weights:
    def version_dir(self, digest: str) -> Path:
        return Path("/weights") / digest


class Control:
    """The three reconcilers of a control plane that leads, and a probe period that `probes` says."""

    def __init__(self, database: Database, held: lease.Lease, root: Path, endpoints: int) -> None:
        clock, wake, settings = Clock(), Wake(), Settings(data_dir=root)
        settings.paths.run.mkdir(parents=True, exist_ok=True)
        self.engine = Engine()
        self.size = endpoints * REPLICAS
        engines = {"llamacpp": self.engine}
        self.wake = wake
        self.rollouts = RolloutReconciler(
            database, clock, wake, lambda: held, limits=rollout_limits(settings)
        )
        self.replicas = ReplicaReconciler(
            database=database,
            clock=clock,
            wake=wake,
            runtime=Running(endpoints),
            engines=engines,
            store=Weights(),
            gateways=OneHost(GatewayView(open_acks(settings.paths.acks_file))),
            pepper=b"p" * 32,
            settings=settings,
            lease_of=lambda: held,
        )
        self.routes = RoutesPublisher(
            database,
            clock,
            wake,
            settings.paths,
            engines=engines,
            lease_of=lambda: held,
            hold_s=settings.hold_s,
        )

    async def probes_end(self) -> None:
        """Until every replica has answered once more."""
        while self.engine.asked < self.size:  # noqa: ASYNC110 - probes have no event for it
            await asyncio.sleep(0)
        self.engine.asked = 0
        await asyncio.sleep(0.05)


def run() -> Result:
    with tempfile.TemporaryDirectory(prefix="wb-bench-", dir="/var/tmp") as name:
        root = Path(name)
        root.chmod(0o755)
        url = embedded.start(root / "postgres")
        try:
            migrate(url)
            candidates = asyncio.run(_measure(url, root / "data"))
        finally:
            embedded.stop(root / "postgres")
    return Result(
        name="planner",
        title=f"endpoints with {REPLICAS} replicas each, nothing to do",
        command="python -m benchmarks planner",
        candidates=candidates,
        notes=[
            f"CPU of the control process per pass, PostgreSQL's own not counted; {PASSES} passes after the first.",
            "`probes` is the CPU of asking every replica once of an engine that answers at once.",
            f"`rest` is the CPU share of one core over {REST_S:g} s of the three loops as they run.",
        ],
    )


async def _measure(url: str, data: Path) -> list[Candidate]:
    database = Database(url)
    try:
        # The smallest last: what it pays for first passes is not counted as its own.
        measured = {size: await _passes(database, data, size) for size in (*SIZES, 0)}
    finally:
        await database.close()
    return [Candidate(f"{size:,}", measured[size]) for size in (0, *SIZES)]


async def _passes(database: Database, data: Path, endpoints: int) -> dict[str, list[float]]:
    async with database.begin() as tx:
        for statement in _ROWS:
            await tx.execute(text(statement), {"endpoints": endpoints, "replicas": REPLICAS})
        held = await lease.acquire(tx, "controller", "benchmark", ttl_s=3600)
    assert held is not None
    control = Control(database, held, data / str(endpoints), endpoints)
    for once in (control.routes, control.rollouts, control.replicas):
        await once.reconcile()
    await control.probes_end()
    samples: dict[str, list[float]] = {
        f"{name}_ms": []
        for name in ("rollouts_pass", "replicas_pass", "routes_pass", "all_passes", "probes")
    }
    for _ in range(PASSES):
        await asyncio.sleep(2.1)
        rollouts = await _cpu_ms(control.rollouts.reconcile)
        routes = await _cpu_ms(control.routes.reconcile)
        replicas = await _cpu_ms(control.replicas.reconcile)
        probes = await _cpu_ms(control.probes_end)
        for name, value in (
            ("rollouts_pass", rollouts),
            ("replicas_pass", replicas),
            ("routes_pass", routes),
            ("all_passes", rollouts + routes + replicas),
            ("probes", probes),
        ):
            samples[f"{name}_ms"].append(value)
    samples["rest_percent"] = [await _rest(control)]
    await control.replicas.close()
    return samples


async def _cpu_ms(step: Callable[[], Awaitable[object]]) -> float:
    began = time.process_time()
    await step()
    return (time.process_time() - began) * 1000


async def _rest(control: Control) -> float:
    passes = {
        "rollouts": control.rollouts.reconcile,
        "replicas": control.replicas.reconcile,
        "routes": control.routes.reconcile,
    }
    tasks = [asyncio.create_task(Loop(n, step, control.wake).run()) for n, step in passes.items()]
    await asyncio.sleep(2)
    began = time.process_time()
    await asyncio.sleep(REST_S)
    used = time.process_time() - began
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return used / REST_S * 100
