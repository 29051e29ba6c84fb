"""A toy endpoint on which whole rollouts are played: replicas live and die by chance, time is a number.

Only the life of replicas is simulated; every decision is made by the planners under test. Each step checks the
rules that must hold in any world.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from random import Random

from toys.rules import check_plan, check_upkeep
from weighbridge.endpoints.model import Endpoint
from weighbridge.replicas.model import TRANSITIONS as REPLICA_TRANSITIONS
from weighbridge.replicas.model import Replica, ReplicaState
from weighbridge.rollouts.model import Deployment, RolloutLimits, RolloutStatus
from weighbridge.rollouts.moves import (
    Action,
    AdoptReplica,
    DrainReplica,
    StartReplica,
    StopReplica,
)
from weighbridge.rollouts.plan import Plan, Seen, plan
from weighbridge.rollouts.steady import steady_plan

START = datetime(2026, 1, 1, tzinfo=UTC)
LIMITS = RolloutLimits(
    min_ready_s=2,
    bake_s=3,
    progress_s=120,
    total_s=2_000,
    rollback_progress_s=240,
    capacity_s=60,
    failures_window_s=100,
    upkeep_backoff_s=(1, 5, 10),
)
S = ReplicaState


def replica(replica_id: str, **changes: object) -> Replica:
    values: dict[str, object] = {
        "id": replica_id,
        "endpoint_id": "chat",
        "deployment_id": "d1",
        "version_id": "v1",
        "version_number": 1,
        "digest": "digest-v1",
        "fingerprint": "fp-v1",
        "state": S.READY,
        "reason": "",
        "slot": 0,
        "url": None,
        "incarnation": None,
        "probe_passes": 0,
        "probe_failures": 0,
        "failure_counted": False,
        "routed_generation": None,
        "routed_at": None,
        "unrouted_generation": None,
        "created_at": START,
        "state_since": START,
        "ready_at": None,
        "drain_deadline": None,
        "revision": 1,
    }
    return Replica(**(values | changes))


def serving(replica_id: str, since: datetime = START, **changes: object) -> Replica:
    return replica(replica_id, state=S.READY, ready_at=since, routed_at=since, **changes)


def deployment(number: int, version: int | None = None, **changes: object) -> Deployment:
    version = number if version is None else version
    values: dict[str, object] = {
        "id": f"d{number}",
        "endpoint_id": "chat",
        "org_id": "org_1",
        "arch_id": "tiny",
        "version_id": f"v{version}",
        "version_number": version,
        "digest": f"digest-v{version}",
        "fingerprint": f"fp-v{version}",
        "reference": str(version),
        "status": RolloutStatus.NOT_STARTED,
        "reason": "",
        "error_message": None,
        "base_deployment_id": None,
        "replicas": 0,
        "max_unavailable": 0,
        "max_surge": 0,
        "updated_replicas": 0,
        "updated_max": 0,
        "failures": 0,
        "restored_max": 0,
        "restore_failures": 0,
        "cancel_requested": False,
        "created_at": START,
        "updated_at": START,
        "started_at": None,
        "progress_at": None,
        "finished_at": None,
        "revision": 1,
    }
    return Deployment(**(values | changes))


def endpoint(replicas: int, max_unavailable: int, max_surge: int) -> Endpoint:
    return Endpoint(
        id="chat",
        org_id="org_1",
        arch_id="tiny",
        replicas=replicas,
        max_unavailable=max_unavailable,
        max_surge=max_surge,
        base_deployment_id=None,
        created_at=START,
        updated_at=START,
        revision=1,
    )


@dataclass
class Luck:
    """How a version fares: chances per second of a ready replica to end, and of a starting one to crash.

    With `dies_after_s` a replica crashes when it has been ready for that long.
    """

    start_crash: float = 0.0
    dies_after_s: float | None = None
    never_ready: bool = False
    crash: float = 0.0
    lose: float = 0.0


@dataclass
class World:
    chance: Random
    endpoint: Endpoint
    luck: dict[str, Luck]
    places: int = 1_000
    controller_absent: float = 0.0
    now: datetime = START
    deployments: dict[str, Deployment] = field(default_factory=dict)
    base_id: str | None = None
    replicas: dict[str, Replica] = field(default_factory=dict)
    failed_ids: set[str] = field(default_factory=set)
    ready_min: int = 10**6
    _made: int = 0

    def serve(self, base: Deployment, count: int) -> None:
        """Begin with `count` replicas that have served this deployment for long."""
        done = replace(base, status=RolloutStatus.DONE)
        self.deployments[done.id] = done
        self.base_id = done.id
        long_ago = START - timedelta(days=1)
        for _ in range(count):
            self._add(done, S.READY, ready_at=long_ago, routed_at=long_ago)

    def submit(self, new: Deployment) -> None:
        self.deployments[new.id] = new

    def tick(self, seconds: float = 1.0) -> None:
        self.now += timedelta(seconds=seconds)
        for one in list(self.replicas.values()):
            if not one.state.final:
                self._live(one, self.luck[one.version_id])
        if self.chance.random() >= self.controller_absent:
            self.control()
        self.ready_min = min(self.ready_min, self.routed())

    def play(self, ticks: int) -> None:
        for _ in range(ticks):
            self.tick()
            if self.active() is None:
                return

    def active(self) -> Deployment | None:
        return next((d for d in self.deployments.values() if not d.status.final), None)

    def routed(self) -> int:
        return sum(r.state is S.READY and r.routed_at is not None for r in self.replicas.values())

    def on(self, version_id: str, *states: ReplicaState) -> int:
        return sum(
            r.version_id == version_id and r.state in (states or (S.READY,))
            for r in self.replicas.values()
        )

    def control(self) -> None:
        active = self.active()
        if active is None:
            self._keep_up()
            return
        base = self._base()
        if active.status is not RolloutStatus.NOT_STARTED:
            base = self.deployments.get(active.base_deployment_id or "")
        seen = Seen(active, base, self.endpoint, endpoint_deleted=False, replicas=self.seen())
        decision = plan(seen, self.now, LIMITS)
        self._check(seen, decision)
        self.deployments[active.id] = decision.after
        for replica_id in decision.counted:
            self._put(replace(self.replicas[replica_id], failure_counted=True))
        self._apply(decision.actions)
        if decision.after.status is RolloutStatus.DONE:
            self.base_id = active.id

    def _keep_up(self) -> None:
        base, replicas, size = self._base(), self.seen(), self.endpoint.replicas
        surge = self.endpoint.max_surge
        upkeep = steady_plan(base, replicas, size, self.now, LIMITS, surge=surge)
        check_upkeep(base, replicas, upkeep, self.now, LIMITS, size=size, surge=surge)
        self._apply(upkeep.actions)

    def seen(self) -> Sequence[Replica]:
        window = self.now - timedelta(seconds=LIMITS.failures_window_s)
        return tuple(
            r
            for r in self.replicas.values()
            if not r.state.final
            or (
                r.state in (S.FAILED, S.LOST) and (not r.failure_counted or r.state_since >= window)
            )
        )

    def _base(self) -> Deployment | None:
        return None if self.base_id is None else self.deployments[self.base_id]

    def _add(self, made_for: Deployment, state: ReplicaState, **changes: object) -> None:
        self._made += 1
        one = replica(
            f"r{self._made:04}",
            deployment_id=made_for.id,
            version_id=made_for.version_id,
            version_number=made_for.version_number,
            digest=made_for.digest,
            fingerprint=made_for.fingerprint,
            state=state,
            created_at=self.now,
            state_since=self.now,
            **changes,
        )
        self.replicas[one.id] = one

    def _put(self, one: Replica) -> None:
        before = self.replicas[one.id]
        assert one.state is before.state or one.state in REPLICA_TRANSITIONS[before.state]
        self.replicas[one.id] = one

    def _move(self, one: Replica, state: ReplicaState, **changes: object) -> None:
        self._put(replace(one, state=state, state_since=self.now, **changes))
        if state is S.FAILED:
            self.failed_ids.add(one.id)

    def _live(self, one: Replica, luck: Luck) -> None:
        roll = self.chance.random()
        on_the_way = one.state in (S.STARTING, S.WARMING)
        if on_the_way and roll < luck.start_crash:
            self._move(one, self.chance.choice([S.FAILED, S.FAILING]), reason="crashed")
        elif one.state is S.READY and (roll < luck.crash or self._is_due(one, luck)):
            self._move(one, S.FAILED, reason="crashed")
        elif (on_the_way or one.state is S.READY) and roll < luck.crash + luck.lose:
            self._move(one, S.LOST, reason="its node is lost")
        elif self.chance.random() < 0.5:
            self._step(one, luck)

    def _is_due(self, one: Replica, luck: Luck) -> bool:
        if luck.dies_after_s is None or one.ready_at is None:
            return False
        return self.now >= one.ready_at + timedelta(seconds=luck.dies_after_s)

    def _step(self, one: Replica, luck: Luck) -> None:
        match one.state:
            case S.PENDING:
                holding = sum(
                    not r.state.final and r.state is not S.PENDING for r in self.replicas.values()
                )
                if holding < self.places:
                    self._move(one, S.STARTING)
                else:
                    self._put(replace(one, reason="every place is taken"))
            case S.STARTING:
                self._move(one, S.WARMING)
            case S.WARMING if not luck.never_ready:
                self._move(one, S.READY, ready_at=self.now)
            case S.READY if one.routed_at is None:
                self._put(replace(one, routed_at=self.now))
            case S.DRAINING:
                self._move(one, S.STOPPING)
            case S.STOPPING:
                self._move(one, S.STOPPED)
            case S.FAILING:
                self._move(one, S.FAILED)

    def _apply(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case StartReplica(deployment_id):
                    self._add(self.deployments[deployment_id], S.PENDING)
                case DrainReplica(replica_id):
                    assert self.replicas[replica_id].state is S.READY
                    self._move(self.replicas[replica_id], S.DRAINING)
                case StopReplica(replica_id):
                    self._move(self.replicas[replica_id], S.STOPPING)
                case AdoptReplica(replica_id, deployment_id):
                    self._put(replace(self.replicas[replica_id], deployment_id=deployment_id))

    def _check(self, seen: Seen, decision: Plan) -> None:
        check_plan(seen, decision, self.now, LIMITS)
