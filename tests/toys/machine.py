"""A toy node and gateway under the real reconcilers, on the real database, snapshot files and shared acks."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from sqlalchemy import update

from toys.gateway import ToyGateway
from toys.node import ToyEngine, ToyRuntime, ToyStore
from toys.rows import waiting
from weighbridge.clock import Clock
from weighbridge.control.loop import Loop
from weighbridge.control.wake import Wake
from weighbridge.replicas import store as replica_store
from weighbridge.replicas.model import Replica, ReplicaState
from weighbridge.replicas.reconciler import ReplicaReconciler
from weighbridge.replicas.routes import RoutesPublisher
from weighbridge.rollouts import store as rollout_store
from weighbridge.rollouts.model import Deployment
from weighbridge.rollouts.reconciler import RolloutReconciler, rollout_limits
from weighbridge.routing.hosts.view import OneHost
from weighbridge.settings import Settings
from weighbridge.storage import lease
from weighbridge.storage.counters import next_value
from weighbridge.storage.database import Database
from weighbridge.storage.tables import endpoints

WAIT_S = 30.0


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
