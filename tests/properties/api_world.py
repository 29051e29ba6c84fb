"""The world in which calls over HTTP are played: orgs, rollouts that go on, and what holds after every call."""

import asyncio
import itertools
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import httpx
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from sqlalchemy import select, text

from control_world import ARCH, Caller, World, new_world
from weighbridge.accounts.model import KeyKind, Org
from weighbridge.replicas import store as replica_store
from weighbridge.replicas.model import Replica, ReplicaState
from weighbridge.rollouts.model import RolloutLimits, RolloutStatus
from weighbridge.rollouts.reconciler import RolloutReconciler
from weighbridge.storage import lease
from weighbridge.storage.database import Database
from weighbridge.storage.tables import deployments, endpoints, metadata, model_versions, replicas

S = ReplicaState
T = TypeVar("T")
ORGS = ("alpha", "beta")
ALIASES = ("stable", "canary", "old-one")
ENDPOINTS = ("one", "two")
QUEUE_MAX = 2
LIMITS = RolloutLimits(
    min_ready_s=1, bake_s=1, progress_s=60, total_s=600, rollback_progress_s=60, capacity_s=60
)
CLIMB = {S.PENDING: S.STARTING, S.STARTING: S.WARMING, S.WARMING: S.READY}
FALL = {S.DRAINING: S.STOPPING, S.STOPPING: S.STOPPED, S.FAILING: S.FAILED}


@dataclass
class Versions:
    """What one org has uploaded: number to whether it is done; the deleted are gone from `done`."""

    last: int = 0
    done: dict[int, bool] = field(default_factory=dict)
    aliases: dict[str, int] = field(default_factory=dict)
    digests: dict[int, str] = field(default_factory=dict)

    def find(self, ref: int | str | None) -> int | None:
        number = self.aliases.get(ref) if isinstance(ref, str) else ref
        return number if number in self.done else None

    def drop_aliases(self, number: int) -> None:
        self.aliases = {name: held for name, held in self.aliases.items() if held != number}


@dataclass
class Place:
    """An endpoint of the model."""

    org: str
    replicas: int = 1
    replicas_max: int | None = None


class ApiWorld(RuleBasedStateMachine):
    """What has been asked for, how replicas live, and the invariants; the calls are of those who play."""

    database_url: str
    database_schema: str
    directory: Path

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.versions = {name: Versions() for name in ORGS}
        self.places: dict[str, Place] = {}
        self.born: set[str] = set()
        self.seen: dict[str, tuple[str, int]] = {}
        self.known: dict[str, Org] = {}
        self.members: dict[str, Caller] = {}
        self.revoked: list[Caller] = []
        self.made: list[tuple[str, str]] = []
        self.looks = 0

    def run(self, work: Awaitable[T]) -> T:
        async def awaited() -> T:
            return await work

        return self.runner.run(awaited())

    async def _begin(self) -> None:
        self.database = Database(self.database_url, schema=self.database_schema)
        tables = ", ".join(table.name for table in metadata.sorted_tables)
        async with self.database.begin() as tx:
            await tx.execute(text(f"TRUNCATE {tables}"))
            held = await lease.acquire(tx, "controller", "play", ttl_s=3_600)
        assert held is not None
        self.world: World = new_world(self.database, self.directory, deployment_queue_max=QUEUE_MAX)
        await self.world.architecture(ARCH)
        for name in ORGS:
            self.known[name] = await self.world.org(name)
            await self._new_key(name)
        _, text_ = await self.world.key(KeyKind.ADMIN, None)
        self.operator = Caller(self.world.client, text_)
        clock = self.world.parts.clock
        self.reconciler = RolloutReconciler(
            self.database, clock, lambda _: None, lambda: held, limits=LIMITS
        )

    async def _new_key(self, org: str) -> None:
        _, text_ = await self.world.key(KeyKind.MANAGEMENT, self.known[org])
        self.members[org] = Caller(self.world.client, text_)

    def teardown(self) -> None:
        if hasattr(self, "database"):
            self.run(self.world.client.aclose())
            self.run(self.database.close())
        self.runner.close()

    def call(self, org: str, method: str, path: str, body: object = None) -> httpx.Response:
        answer = self.run(self.members[org](method, f"/management/v1{path}", body))
        assert answer.status_code < 500, answer.text
        return answer

    def admin(self, method: str, path: str, body: object = None) -> httpx.Response:
        answer = self.run(self.operator(method, f"/admin/v1{path}", body))
        assert answer.status_code < 500, answer.text
        return answer

    async def _used(self, org: str, number: int) -> bool:
        """From the rows: a replica that is not dead, an open deployment, or what an endpoint returns to."""
        async with self.database.begin() as tx:
            query = select(model_versions.c.id).where(
                model_versions.c.org_id == self.known[org].id, model_versions.c.number == number
            )
            version_id = (await tx.execute(query)).scalar_one()
            alive = select(replicas.c.id).where(
                replicas.c.version_id == version_id,
                replicas.c.state.not_in([s.value for s in S if s.final]),
            )
            open_ = select(deployments.c.id).where(
                deployments.c.version_id == version_id,
                deployments.c.status.not_in([s.value for s in RolloutStatus if s.final]),
            )
            base = (
                select(endpoints.c.id)
                .join(deployments, deployments.c.id == endpoints.c.base_deployment_id)
                .where(deployments.c.version_id == version_id, endpoints.c.deleted_at.is_(None))
            )
            return any([(await tx.execute(q.limit(1))).first() for q in (alive, open_, base)])

    async def _open(self, endpoint: str) -> Sequence[object]:
        async with self.database.begin() as tx:
            query = (
                select(deployments)
                .where(
                    deployments.c.endpoint_id == endpoint,
                    deployments.c.status.not_in([s.value for s in RolloutStatus if s.final]),
                )
                .order_by(deployments.c.sequence)
            )
            return (await tx.execute(query)).all()

    # The world goes on

    @rule(seconds=st.sampled_from([1, 3, 10]), fails=st.sampled_from([False, False, True]))
    def time_passes(self, seconds: int, fails: bool) -> None:
        self.run(self._time_passes(seconds, fails=fails))

    @rule()
    def everything_settles(self) -> None:
        for _ in range(12):
            self.run(self._time_passes(2, fails=False))

    async def _time_passes(self, seconds: float, *, fails: bool) -> None:
        await self.reconciler.reconcile()
        self.world.pass_time(seconds)
        async with self.database.begin() as tx:
            listed = await replica_store.listing(tx, None)
            for one in sorted((r for r in listed if not r.state.final), key=lambda r: r.id):
                await replica_store.save(tx, one, self._lived(one, fails=fails))
        await self.reconciler.reconcile()

    def _lived(self, one: Replica, *, fails: bool) -> Replica:
        now = self.world.time
        state = CLIMB.get(one.state) or FALL.get(one.state) or one.state
        if fails and one.state in (S.STARTING, S.WARMING):
            state = S.FAILED
        if state is one.state:
            return one if one.routed_at else replace(one, routed_at=now)
        ready_at = now if state is S.READY else one.ready_at
        return replace(one, state=state, state_since=now, ready_at=ready_at)

    # What holds after every call

    @invariant()
    def rows_hold(self) -> None:
        if self.known:
            self.run(self._rows_hold())

    async def _rows_hold(self) -> None:
        async with self.database.begin() as tx:
            versions = (await tx.execute(select(model_versions))).all()
            rows = (await tx.execute(select(deployments).order_by(deployments.c.sequence))).all()
            alive = await replica_store.listing(tx, None)
        for name, mine in self.versions.items():
            own = [row for row in versions if row.org_id == self.known[name].id]
            assert sorted(row.number for row in own) == list(range(1, mine.last + 1))  # V1, V2
            for row in own:
                if row.status == "done":
                    assert mine.digests.setdefault(row.number, row.manifest_digest) == (
                        row.manifest_digest
                    )  # V8
        for row in rows:
            status, number = self.seen.get(row.id, (row.status, row.version_number))
            assert number == row.version_number  # R7
            if RolloutStatus(status).final:
                assert row.status == status  # R11
            self.seen[row.id] = (row.status, row.version_number)
        for _, group in itertools.groupby(
            sorted(rows, key=lambda row: (row.endpoint_id, row.sequence)),
            key=lambda row: row.endpoint_id,
        ):
            open_now = [r for r in group if not RolloutStatus(r.status).final]
            assert all(row.status == "not_started" for row in open_now[1:])  # R1, in their order
        slots = [replica.slot for replica in alive if not replica.state.final]
        assert len(slots) == len(set(slots))

    @invariant()
    def lists_hold(self) -> None:
        """V3, V4, V7: what is listed is what the model has, each alias once; of one org in turn."""
        self.looks += 1
        for name, mine in self.versions.items():
            if name not in self.known or name != ORGS[self.looks % len(ORGS)]:
                continue
            listed = self.call(name, "GET", f"/orgs/{name}/models/{ARCH}/versions").json()
            found = {
                int(item["name"].rpartition("/")[2]): item["response"]["version_aliases"]
                for item in listed["model_versions"]
            }
            assert found.keys() == mine.done.keys()
            pairs = [(alias, number) for number, held in found.items() for alias in held]
            assert len(pairs) == len(dict(pairs))
            assert dict(pairs) == mine.aliases
