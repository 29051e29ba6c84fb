"""A machine and an engine in memory, honest about their interfaces, and a gateway that only acknowledges tables.

The database, the reconcilers, the snapshot files and the shared acks are the real ones.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import insert, select, update

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
from weighbridge.errors import NotFoundError
from weighbridge.replicas import store as replica_store
from weighbridge.replicas.model import Replica, ReplicaState
from weighbridge.replicas.reconciler import ReplicaReconciler
from weighbridge.replicas.routes import RoutesPublisher
from weighbridge.rollouts import store as rollout_store
from weighbridge.rollouts.model import Deployment, RolloutStatus
from weighbridge.rollouts.reconciler import RolloutReconciler, rollout_limits
from weighbridge.routing.acks import GatewayView, WorkerColumn, open_acks
from weighbridge.routing.files import read_snapshot
from weighbridge.routing.hosts.view import OneHost
from weighbridge.routing.model import RouteTable
from weighbridge.runtimes.base import NodeInfo, ReplicaSpec, ReplicaStatus, RuntimeState
from weighbridge.settings import Settings
from weighbridge.storage import lease
from weighbridge.storage.counters import next_value
from weighbridge.storage.database import Database, Transaction
from weighbridge.storage.tables import (
    architectures,
    deployments,
    endpoints,
    model_versions,
    orgs,
    replicas,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WAIT_S = 30.0


@dataclass
class ToyRuntime:
    """Processes as records; `crashing` are the versions whose engines exit at once."""

    places: int = 64
    crashing: set[str] = field(default_factory=set)
    processes: dict[str, ReplicaStatus] = field(default_factory=dict)
    launched: list[str] = field(default_factory=list)
    tokens: dict[str, str] = field(default_factory=dict)

    async def launch(self, spec: ReplicaSpec) -> None:
        if spec.name in self.processes:
            return
        self.launched.append(spec.name)
        self.tokens[spec.name] = spec.secrets["TOKEN"]
        self.processes[spec.name] = ReplicaStatus(
            name=spec.name,
            state=RuntimeState.PENDING,
            labels=spec.labels,
            incarnation=f"{spec.name}.{len(self.launched)}",
            node="toy",
        )
        self._admit()

    def _admit(self) -> None:
        for name, status in self.processes.items():
            held = sum(
                s.state in (RuntimeState.RUNNING, RuntimeState.STOPPING)
                for s in self.processes.values()
            )
            if status.state is not RuntimeState.PENDING:
                continue
            if held >= self.places:
                self.processes[name] = replace(status, reason="every place is taken")
            elif status.labels["version"] in self.crashing:
                self.exit(name, 1)
            else:
                self.processes[name] = replace(
                    status, state=RuntimeState.RUNNING, url=f"http://toy/{name}", reason=None
                )

    async def list(self, selector: Mapping[str, str]) -> Sequence[ReplicaStatus]:
        self._admit()
        return [s for s in self.processes.values() if selector.items() <= s.labels.items()]

    async def stop(self, name: str, grace_s: float) -> None:
        if name in self.processes:
            self.exit(name, 0)

    def exit(self, name: str, code: int | None) -> None:
        self.processes[name] = replace(
            self.processes[name], state=RuntimeState.EXITED, url=None, exit_code=code
        )

    async def forget(self, name: str) -> None:
        status = self.processes.get(name)
        if status is not None and status.state is RuntimeState.EXITED:
            del self.processes[name]

    async def logs(self, name: str, tail_bytes: int) -> str:
        return "loading\ncannot load tensor blk.0\n"

    async def capacity(self) -> Sequence[NodeInfo]:
        return []


@dataclass
class ToyEngine:
    runtime: ToyRuntime
    sick: set[str] = field(default_factory=set)
    strangers: set[str] = field(default_factory=set)
    generated: list[str] = field(default_factory=list)
    name: str = "llamacpp"

    def capabilities(self, settings: EngineSettings) -> EngineCapabilities:
        return EngineCapabilities(choices_max=2, min_tokens=True)

    def command(self, launch: EngineLaunch) -> EngineCommand:
        return EngineCommand(["engine", launch.served_name], secrets={"TOKEN": launch.token})

    async def probe(self, url: str, launch: EngineLaunch, *, generate: bool) -> ProbeResult:
        status = self.runtime.processes.get(launch.replica_id)
        if status is None or status.url != url:
            return ProbeResult(ProbeOutcome.UNHEALTHY, "connection refused")
        if self.runtime.tokens[launch.replica_id] != launch.token:
            return ProbeResult(ProbeOutcome.WRONG_IDENTITY, "token refused")
        if launch.replica_id in self.strangers:
            return ProbeResult(ProbeOutcome.WRONG_IDENTITY, "serves another digest")
        if launch.replica_id in self.sick:
            return ProbeResult(ProbeOutcome.UNHEALTHY, "hangs")
        if generate:
            self.generated.append(launch.replica_id)
        return ProbeResult(ProbeOutcome.READY)

    async def load(self, url: str, launch: EngineLaunch) -> EngineLoad | None:
        return None


@dataclass
class ToyStore:
    missing: set[str] = field(default_factory=set)

    def version_dir(self, digest: str) -> Path:
        if digest in self.missing:
            raise NotFoundError(f"the weights {digest} are not in the store")
        return Path("/weights") / digest


class ToyGateway:
    """One worker that takes each table as it appears; remembers how many replicas it could route to."""

    def __init__(self, settings: Settings) -> None:
        self._path = settings.paths.routes_file
        settings.paths.run.mkdir(parents=True, exist_ok=True)
        memory = open_acks(settings.paths.acks_file)
        self.column = WorkerColumn(memory, 0, os.getpid())
        self.view = GatewayView(memory)
        self.generations: list[int] = []
        self.routed: list[int] = []
        self.versions: list[set[int]] = []

    async def run(self) -> None:
        while True:
            table = read_snapshot(self._path, RouteTable)
            if table is not None and table.generation not in self.generations[-1:]:
                self.generations.append(table.generation)
                routes = [r for e in table.endpoints for r in e.replicas]
                self.routed.append(len(routes))
                self.versions.append({r.version for r in routes})
                self.column.acknowledge(table.generation, 0)
            await asyncio.sleep(0.005)


@dataclass
class Machine:
    database: Database
    settings: Settings
    runtime: ToyRuntime
    engine: ToyEngine
    store: ToyStore
    gateway: ToyGateway
    clock: Clock = field(default_factory=Clock)
    wake: Wake = field(default_factory=Wake)
    held: lease.Lease | None = None

    async def lead(self, holder: str) -> None:
        async with self.database.begin() as tx:
            self.held = await lease.acquire(tx, "controller", holder, ttl_s=60)
        assert self.held is not None

    def lease(self) -> lease.Lease:
        assert self.held is not None
        return self.held

    def rollouts(self) -> RolloutReconciler:
        limits = rollout_limits(self.settings)
        return RolloutReconciler(
            self.database,
            self.clock,
            self.wake,
            self.lease,
            limits=replace(limits, backoff_s=(0.1,)),
        )

    def replicas(self) -> ReplicaReconciler:
        return ReplicaReconciler(
            database=self.database,
            clock=self.clock,
            wake=self.wake,
            runtime=self.runtime,
            engines={"llamacpp": self.engine},
            store=self.store,
            gateways=OneHost(self.gateway.view),
            pepper=b"p" * 32,
            settings=self.settings,
            lease_of=self.lease,
        )

    def publisher(self, **changes) -> RoutesPublisher:
        return RoutesPublisher(
            self.database,
            self.clock,
            self.wake,
            self.settings.paths,
            engines={"llamacpp": self.engine},
            lease_of=self.lease,
            hold_s=self.settings.hold_s,
            **changes,
        )

    @asynccontextmanager
    async def controlled(self) -> AsyncIterator[None]:
        """Everything a control plane runs, from a new start to a kill without warning."""
        await self.lead("control")
        replica_reconciler = self.replicas()
        loops = [
            Loop("rollouts", self.rollouts().reconcile, self.wake, 0.5),
            Loop("replicas", replica_reconciler.reconcile, self.wake, 0.5),
            Loop("routes", self.publisher().reconcile, self.wake, 0.5),
        ]
        tasks = [asyncio.create_task(loop.run()) for loop in loops]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await replica_reconciler.close()

    async def deploy(self, number: int, version: int) -> str:
        """Submit as the service does; its checks have tests of their own."""
        deployment_id = f"d{number}"
        async with self.database.begin() as tx:
            one = waiting(deployment_id, version)
            await rollout_store.add(tx, one, await next_value(tx, "deployments"))
        self.wake("rollouts")
        return deployment_id

    async def deployment(self, deployment_id: str) -> Deployment:
        async with self.database.begin() as tx:
            found = await rollout_store.find(tx, deployment_id)
        assert found is not None
        return found

    async def ended(self, deployment_id: str) -> Deployment:
        async def final() -> bool:
            return (await self.deployment(deployment_id)).status.final

        await self.until(final, f"{deployment_id} ends")
        return await self.deployment(deployment_id)

    async def until(self, condition, what: str) -> None:
        try:
            async with asyncio.timeout(WAIT_S):
                while not await condition():  # noqa: ASYNC110 - rows have no event
                    await asyncio.sleep(0.01)
        except TimeoutError:
            async with self.database.begin() as tx:
                rows = await replica_store.listing(tx, None)
                open_ones = await rollout_store.open_of(tx, "chat")
            raise AssertionError(f"not within {WAIT_S} s: {what}\n{rows}\n{open_ones}") from None

    async def rows(self, *states: ReplicaState) -> list[Replica]:
        async with self.database.begin() as tx:
            rows = await replica_store.listing(tx, "chat")
        return [r for r in rows if not states or r.state in states]

    async def serving(self) -> list[int]:
        """The versions that serve now, by replica."""
        return sorted(r.version_number for r in await self.rows(ReplicaState.READY))

    async def resize(self, count: int) -> None:
        async with self.database.begin() as tx:
            await tx.execute(
                update(endpoints).values(replicas=count, revision=endpoints.c.revision + 1)
            )
        self.wake("rollouts")


def waiting(deployment_id: str, version: int) -> Deployment:
    return Deployment(
        id=deployment_id,
        endpoint_id="chat",
        org_id="org_1",
        arch_id="tiny",
        version_id=f"v{version}",
        version_number=version,
        digest=f"{version}" * 64,
        fingerprint=f"fp_{version}",
        reference=str(version),
        status=RolloutStatus.NOT_STARTED,
        reason="queued",
        error_message=None,
        base_deployment_id=None,
        replicas=0,
        max_unavailable=0,
        max_surge=0,
        updated_replicas=0,
        updated_max=0,
        failures=0,
        restored_max=0,
        restore_failures=0,
        cancel_requested=False,
        created_at=NOW,
        updated_at=NOW,
        started_at=None,
        progress_at=None,
        finished_at=None,
        revision=1,
    )


async def furnish(
    tx: Transaction, *, count: int = 2, max_unavailable: int = 0, max_surge: int = 1
) -> None:
    """An org, an architecture, an endpoint `chat` and five versions whose sync is done."""
    await tx.execute(
        insert(orgs).values(id="org_1", name="acme", s3_external_id="x1", created_at=NOW)
    )
    await tx.execute(
        insert(architectures).values(
            id="tiny",
            source_uri="/models/tiny",
            base_digest="b" * 64,
            tensors=[],
            engine={"start_timeout_s": 20.0},
            created_at=NOW,
            updated_at=NOW,
        )
    )
    await tx.execute(
        insert(model_versions),
        [
            {
                "id": f"v{n}",
                "org_id": "org_1",
                "arch_id": "tiny",
                "number": n,
                "weight_uri": f"s3://bucket/{n}",
                "status": "done",
                "manifest_digest": f"{n}" * 64,
                "created_at": NOW,
                "updated_at": NOW,
            }
            for n in range(1, 6)
        ],
    )
    await tx.execute(
        insert(endpoints).values(
            id="chat",
            org_id="org_1",
            arch_id="tiny",
            replicas=count,
            max_unavailable=max_unavailable,
            max_surge=max_surge,
            created_at=NOW,
            updated_at=NOW,
        )
    )


async def everything(database: Database) -> list[object]:
    """Every row that a controller writes, to show that nothing changed."""
    async with database.begin() as tx:
        return [
            [tuple(row) for row in await tx.execute(select(table).order_by(table.c.id))]
            for table in (deployments, replicas, endpoints)
        ]
