"""Any order of calls over HTTP, with rollouts going on, against a model of what must hold.

The real app and the real rollouts reconciler on the real database; only the life of replicas is played.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import httpx
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
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

orgs = st.sampled_from([ORGS[0], ORGS[0], ORGS[0], ORGS[1]])
"""Most calls are about one org, so that they meet."""
names = st.lists(st.sampled_from(ALIASES), unique=True, max_size=2)
refs = st.integers(1, 4) | st.sampled_from(ALIASES)
where = st.sampled_from([ENDPOINTS[0], ENDPOINTS[0], ENDPOINTS[0], ENDPOINTS[1]])
picks = st.integers(0, 50)


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


class ApiPlay(RuleBasedStateMachine):
    """Each rule is one call and says what must be answered; the invariants hold after each."""

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

    @initialize()
    def begin(self) -> None:
        """Both orgs have versions and an endpoint; the first one's serves version 1."""
        self.run(self._begin())
        for org, endpoint in zip(ORGS, ENDPOINTS, strict=True):
            for aliases in ([ALIASES[0]], [ALIASES[1]], []):
                self.upload(org, aliases)
                self.sync_ends(org, 0)
            self.create_endpoint(org, endpoint, 2)
        self.allow_scaling(ENDPOINTS[0], 4)
        self.deploy(ORGS[0], ENDPOINTS[0], 1, dry=False)
        self.everything_settles()

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

    # Versions and aliases

    @rule(org=orgs, aliases=names)
    def upload(self, org: str, aliases: list[str]) -> None:
        """V1, V2, V5: the next number, or nothing at all."""
        mine = self.versions[org]
        body = {
            "model_arch_id": ARCH,
            "model": {"weight_uri": "s3://my-bucket/w", "version_aliases": aliases},
        }
        answer = self.call(org, "POST", f"/orgs/{org}/models:upload", body)
        if set(aliases) & set(mine.aliases):
            assert answer.status_code == 409
            return
        assert answer.json()["name"].endswith(f"/versions/{mine.last + 1}")
        mine.last += 1
        mine.done[mine.last] = False
        mine.aliases |= dict.fromkeys(aliases, mine.last)

    @rule(org=orgs, pick=picks)
    def sync_ends(self, org: str, pick: int) -> None:
        mine = self.versions[org]
        waiting = [number for number, done in mine.done.items() if not done]
        if waiting:
            number = waiting[pick % len(waiting)]
            self.run(self.world.end_sync(self.known[org], number))
            mine.done[number] = True

    @rule(org=orgs, ref=refs, aliases=names)
    def patch(self, org: str, ref: int | str, aliases: list[str]) -> None:
        """V5: the whole set, nothing stolen."""
        mine = self.versions[org]
        path = f"/orgs/{org}/models/{ARCH}/versions/{ref}"
        answer = self.call(org, "PATCH", path, {"version_aliases": aliases})
        number = mine.find(ref)
        if number is None:
            assert answer.status_code == 404
        elif any(mine.aliases.get(alias, number) != number for alias in aliases):
            assert answer.status_code == 409
        else:
            assert answer.status_code == 200
            mine.drop_aliases(number)
            mine.aliases |= dict.fromkeys(aliases, number)

    @rule(org=orgs, alias=st.sampled_from(ALIASES), to=refs, expected=st.none() | refs)
    def move(self, org: str, alias: str, to: int | str, expected: int | str | None) -> None:
        mine = self.versions[org]
        path = f"/orgs/{org}/models/{ARCH}/aliases/{alias}:move"
        answer = self.call(org, "POST", path, {"to": to, "expected": expected})
        target, wanted = mine.find(to), mine.find(expected)
        if target is None or (expected is not None and wanted is None):
            assert answer.status_code == 404
        elif mine.aliases.get(alias) != wanted:
            assert (answer.status_code, answer.json()["code"]) == (409, "alias_moved")
        else:
            assert answer.status_code == 200
            mine.aliases[alias] = target

    @rule(org=orgs, ref=refs)
    def delete(self, org: str, ref: int | str) -> None:
        """V6, V7: exactly what nobody uses goes."""
        mine = self.versions[org]
        number = mine.find(ref)
        used = number is not None and self.run(self._used(org, number))
        answer = self.call(org, "DELETE", f"/orgs/{org}/models/{ARCH}/versions/{ref}")
        if number is None:
            assert answer.status_code == 404
            return
        assert answer.status_code == (409 if used else 200), answer.text
        if not used:
            del mine.done[number]
            mine.drop_aliases(number)

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

    # Endpoints

    @rule(org=orgs, endpoint=where, replicas_=st.integers(1, 3))
    def create_endpoint(self, org: str, endpoint: str, replicas_: int) -> None:
        body = {
            "endpoint_id": endpoint,
            "org_name": org,
            "model_arch_id": ARCH,
            "replicas": replicas_,
        }
        answer = self.admin("POST", "/endpoints", body)
        assert answer.status_code == (409 if endpoint in self.born else 200)
        if endpoint not in self.born:
            self.born.add(endpoint)
            self.places[endpoint] = Place(org, replicas_)

    @rule(endpoint=where, last=st.sampled_from([False, False, False, True]))
    def delete_endpoint(self, endpoint: str, last: bool) -> None:
        if last:
            busy = self.run(self._open(endpoint))
            answer = self.admin("DELETE", f"/endpoints/{endpoint}")
            expected = 404 if endpoint not in self.places else 409 if busy else 200
            assert answer.status_code == expected
            if expected == 200:
                del self.places[endpoint]

    @rule(endpoint=where, most=st.none() | st.integers(1, 4))
    def allow_scaling(self, endpoint: str, most: int | None) -> None:
        answer = self.admin("PATCH", f"/endpoints/{endpoint}", {"replicas_max": most})
        assert answer.status_code == (200 if endpoint in self.places else 404)
        if endpoint in self.places:
            self.places[endpoint].replicas_max = most

    @rule(org=orgs, endpoint=where, wanted=st.integers(0, 5))
    def scale(self, org: str, endpoint: str, wanted: int) -> None:
        """Within the operator's maximum; never below what a rollout under way brings up (R18)."""
        place = self.places.get(endpoint)
        active = [d for d in self.run(self._open(endpoint)) if d.status != "not_started"]
        answer = self.call(org, "POST", f"/endpoints/{endpoint}:scale", {"replicas": wanted})
        if place is None or place.org != org:
            assert answer.status_code == 404
        elif place.replicas_max is None:
            assert answer.status_code == 403
        elif not 1 <= wanted <= place.replicas_max:
            assert answer.status_code == 400
        elif wanted != place.replicas and active and wanted < active[0].replicas:
            assert answer.status_code == 409
        else:
            assert answer.json()["replicas"] == wanted, answer.text
            place.replicas = wanted

    # Deployments

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

    @rule(org=orgs, endpoint=where, ref=refs, dry=st.booleans())
    def deploy(self, org: str, endpoint: str, ref: int | str, dry: bool) -> None:
        """R7, R8; a dry run is answered with the same refusal and leaves nothing."""
        mine, place = self.versions[org], self.places.get(endpoint)
        waiting = [d for d in self.run(self._open(endpoint)) if d.status == "not_started"]
        body = {"model": f"orgs/{org}/models/{ARCH}/versions/{ref}"}
        if dry:
            answer = self.call(
                org, "POST", f"/endpoints/{endpoint}:deployModel", {**body, "dry_run": True}
            )
        else:
            answer = self.call(org, "POST", f"/endpoints/{endpoint}:deployModel", body)
        number = mine.find(ref)
        if place is None or place.org != org or number is None:
            assert answer.status_code == 404
        elif not mine.done[number]:
            assert (answer.status_code, answer.json()["code"]) == (409, "version_not_done")
        elif len(waiting) >= QUEUE_MAX:
            assert (answer.status_code, answer.json()["code"]) == (429, "deployment_queue_full")
        elif dry:
            if answer.status_code != 429:  # the calls of a minute are used up
                assert answer.json()["version_id"] == number
                assert answer.json()["expected_status"] in ("done", "error", "rolled_back")
        else:
            assert answer.json()["response"]["version_id"] == number
            self.made.append((org, str(answer.json()["name"])))

    @rule(ref=refs, seconds=st.sampled_from([1, 3]), fails=st.booleans())
    def deploy_and_begin(self, ref: int | str, seconds: int, fails: bool) -> None:
        self.deploy(ORGS[0], ENDPOINTS[0], ref, dry=False)
        for _ in range(3):
            self.time_passes(seconds, fails=fails)

    @rule(ref=refs)
    def deploy_and_settle(self, ref: int | str) -> None:
        self.deploy(ORGS[0], ENDPOINTS[0], ref, dry=False)
        self.everything_settles()

    @rule(org=orgs, endpoint=where)
    def rollback(self, org: str, endpoint: str) -> None:
        place, busy = self.places.get(endpoint), self.run(self._open(endpoint))
        answer = self.call(org, "POST", f"/endpoints/{endpoint}:rollback")
        if place is None or place.org != org:
            assert answer.status_code == 404
        elif busy:
            assert answer.json()["code"] == "deployment_in_progress"
        elif answer.status_code == 200:
            number = answer.json()["response"]["version_id"]
            assert self.versions[org].done[number]
            self.made.append((org, str(answer.json()["name"])))
        else:
            assert answer.json()["code"] == "nothing_to_roll_back_to"

    @precondition(lambda self: self.made)
    @rule(pick=picks, own=st.booleans())
    def cancel(self, pick: int, own: bool) -> None:
        """T2: another org's deployment is none."""
        org, deployment_id = self.made[pick % len(self.made)]
        caller = org if own else next(name for name in ORGS if name != org)
        before = self.call(org, "GET", f"/deployments/{deployment_id}").json()["state"]
        answer = self.call(caller, "POST", f"/deployments/{deployment_id}:cancel")
        if not own:
            absent = "00000000-0000-4000-8000-000000000000"
            none = self.call(caller, "POST", f"/deployments/{absent}:cancel")
            assert answer.status_code == none.status_code == 404
            assert answer.text == none.text.replace(absent, deployment_id)
        elif before == "not_started":
            assert answer.json()["state"] == "cancelled"
        elif before in ("done", "error", "rolled_back"):
            assert answer.status_code == 409
        else:
            assert answer.status_code in (200, 409)

    # Keys

    @rule(org=orgs)
    def replace_key(self, org: str) -> None:
        old = self.members[org]
        key_id = old.key.split("_")[2]
        self.run(self._new_key(org))
        assert self.admin("DELETE", f"/keys/{key_id}").status_code == 200
        self.revoked.append(old)

    @precondition(lambda self: self.revoked)
    @rule(pick=picks)
    def use_a_revoked_key(self, pick: int) -> None:
        old = self.revoked[pick % len(self.revoked)]
        answer = self.run(old("GET", f"/management/v1/orgs/{ORGS[0]}/models"))
        assert answer.status_code == 401

    @rule(org=orgs)
    def look_at_the_other_org(self, org: str) -> None:
        """T2: whatever is another's answers 404, and no list tells of it."""
        other = next(name for name in ORGS if name != org)
        for path in (f"/orgs/{other}/models", f"/orgs/{other}/models/{ARCH}/versions/1"):
            assert self.call(org, "GET", path).status_code == 404
        listed = self.call(org, "GET", "/deployments").json()["deployments"]
        assert {one["id"] for one in listed} == {name for owner, name in self.made if owner == org}

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


@pytest.fixture
def play(database_url: str, database_schema: str, tmp_path: Path) -> Callable[[], ApiPlay]:
    class Placed(ApiPlay):
        pass

    Placed.database_url = database_url
    Placed.database_schema = database_schema
    Placed.directory = tmp_path
    return Placed


def test_no_order_of_calls_breaks_what_must_hold(play: Callable[[], ApiPlay]) -> None:
    run_state_machine_as_test(
        play,
        settings=settings(
            max_examples=10,
            stateful_step_count=40,
            deadline=None,
            phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )
