"""A toy endpoint on which whole rollouts are played: replicas live and die by chance, time is a number.

Only the life of replicas is simulated; every decision is made by the planners under test. Each step checks the
rules that must hold in any world.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from random import Random

from weighbridge.endpoints.model import Endpoint
from weighbridge.replicas.model import TRANSITIONS as REPLICA_TRANSITIONS
from weighbridge.replicas.model import Replica, ReplicaState
from weighbridge.rollouts.model import TRANSITIONS, Deployment, RolloutLimits, RolloutStatus
from weighbridge.rollouts.moves import (
    Action,
    AdoptReplica,
    DrainReplica,
    StartReplica,
    StopReplica,
    runs,
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
            upkeep = steady_plan(
                self._base(),
                self.seen(),
                self.endpoint.replicas,
                self.now,
                LIMITS,
                surge=self.endpoint.max_surge,
            )
            self._apply(upkeep.actions)
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


def counts(one: Replica, now: datetime, limits: RolloutLimits) -> bool:
    """Whether a replica counts as available: ready, in the routing table, proven by probes and time (R2, R14)."""
    if one.state is not S.READY or one.ready_at is None or one.routed_at is None:
        return False
    proven_at = max(one.ready_at, *one.flips) if one.flips else one.ready_at
    return one.probe_failures == 0 and now >= proven_at + timedelta(seconds=limits.min_ready_s)


def check_plan(seen: Seen, decision: Plan, now: datetime, limits: RolloutLimits) -> None:
    """What every plan must keep, in any world (R2, R3, R6, R10, R11, R12, R13, R14)."""
    before, after = seen.deployment, decision.after
    by_id = {r.id: r for r in seen.replicas}
    if after.status is not before.status:
        assert after.status in TRANSITIONS[before.status]
    if before.status.final:
        assert decision == Plan(before)
        return
    removed = [a.replica_id for a in decision.actions if isinstance(a, DrainReplica | StopReplica)]
    started = [a.deployment_id for a in decision.actions if isinstance(a, StartReplica)]
    touched = [a.replica_id for a in decision.actions if not isinstance(a, StartReplica)]
    assert len(set(removed)) == len(removed)
    assert len(set(touched)) == len(touched)
    for action in decision.actions:
        if isinstance(action, DrainReplica):
            assert by_id[action.replica_id].state is S.READY
        elif isinstance(action, StopReplica):
            assert by_id[action.replica_id].state in (S.PENDING, S.STARTING, S.WARMING)
    # R2: available ones are ready ones in the routing table, so R stays at the floor too.
    no_base = before.status is RolloutStatus.ROLLING_BACK and seen.base is None
    floor = 0 if no_base else max(0, before.replicas - before.max_unavailable)
    available = {r.id for r in seen.replicas if counts(r, now, limits)}
    routed = {r.id for r in seen.replicas if r.state is S.READY}
    if routed & set(removed):
        assert len(available - set(removed)) >= floor
    # R3: nothing starts beyond the slots; draining, stopping and failing replicas hold theirs.
    occupied = sum(not r.state.final for r in seen.replicas)
    if started:
        assert occupied + len(started) <= before.replicas + before.max_surge
    # R6, R12: only the target and the base are ever started, and on the way back only the base.
    allowed = {seen.base.id} if seen.base else set()
    if before.status is RolloutStatus.IN_PROGRESS:
        allowed |= {before.id}
    assert set(started) <= allowed
    for deployment_id in set(started):
        _check_pause(seen, deployment_id, now, limits)
    _check_worth(seen, decision, available)
    _check_spare(seen, decision, available, floor)
    _check_counters(seen, decision)


def _check_worth(seen: Seen, decision: Plan, available: set[str]) -> None:
    """Who is available does not go while another of the same goal stays that is not, nor before the weights are
    on the nodes; done is the end.
    """
    goals = {
        RolloutStatus.IN_PROGRESS: seen.deployment,
        RolloutStatus.DONE: seen.deployment,
        RolloutStatus.ROLLING_BACK: seen.base,
    }
    goal = goals.get(decision.after.status)
    if seen.fetching and goal is seen.deployment:
        assert not any(isinstance(action, DrainReplica) for action in decision.actions)
    if goal is None:
        return
    removed = {a.replica_id for a in decision.actions if isinstance(a, DrainReplica | StopReplica)}
    mine = {r.id for r in seen.replicas if r.state.wanted and runs(r, goal)}
    if removed & available & mine:
        assert mine - removed <= available
    if decision.after.status is RolloutStatus.DONE:
        others = {r.id for r in seen.replicas if r.state.wanted} - mine
        assert others <= removed


def _check_spare(seen: Seen, decision: Plan, available: set[str], floor: int) -> None:
    """Until one replica of a target has proven itself, what is to go back to stays as large as the floor (B3)."""
    before, base = seen.deployment, seen.base
    going = {before.status, decision.after.status} == {RolloutStatus.IN_PROGRESS}
    if not going or before.updated_max or base is None or base.version_id == before.version_id:
        return
    target = {r.id for r in seen.replicas if r.state.wanted and runs(r, before)}
    if target & available:
        return
    others = {r.id for r in seen.replicas if r.state.wanted} - target
    removed = {a.replica_id for a in decision.actions if isinstance(a, DrainReplica | StopReplica)}
    assert len(others - removed) >= min(floor, len(others))


def _check_pause(seen: Seen, deployment_id: str, now: datetime, limits: RolloutLimits) -> None:
    """Each failure in a row lengthens the pause before the next start; a loss costs the first one (B3)."""
    own = [r for r in seen.replicas if r.deployment_id == deployment_id]
    ends = [r.state_since for r in own if r.state in (S.FAILED, S.LOST)]
    failed = sum(r.state is S.FAILED for r in own)
    steps_s = limits.backoff_s
    if ends:
        pause_s = steps_s[max(0, min(failed, len(steps_s)) - 1)]
        assert now >= max(ends) + timedelta(seconds=pause_s)


def _check_counters(seen: Seen, decision: Plan) -> None:
    before, after = seen.deployment, decision.after
    # R10
    assert 0 <= after.updated_replicas <= max(after.replicas, before.updated_replicas)
    if after.status is RolloutStatus.DONE:
        assert after.updated_replicas == after.replicas
    if after.status in (RolloutStatus.ROLLED_BACK, RolloutStatus.CANCELLED):
        assert after.updated_replicas == 0
    assert (after.finished_at is not None) == after.status.final
    if after.status is RolloutStatus.ERROR:
        assert after.error_message
        assert not decision.actions
    # R13: a failure counts once, and over the budget no further ready replica is touched going forward.
    counted = [r for r in seen.replicas if r.id in decision.counted]
    assert all(not r.failure_counted and r.state in (S.FAILED, S.LOST) for r in counted)
    own = sum(r.state is S.FAILED and r.deployment_id == before.id for r in counted)
    if before.status is RolloutStatus.IN_PROGRESS:
        assert after.failures == before.failures + own
        over = after.failures >= LIMITS.failures_max(before.replicas)
        if over and after.status is RolloutStatus.IN_PROGRESS:
            # Only a rollout that is complete all the same stays; it has nothing left to remove but its rest.
            assert after.updated_replicas == after.replicas
    # R14: the mark only rises, and the clock is set back only with it or for a drain or a missing place.
    assert after.updated_max >= before.updated_max
    assert after.restored_max >= before.restored_max
    if after.status is before.status and after.progress_at != before.progress_at:
        risen = (after.updated_max, after.restored_max) != (before.updated_max, before.restored_max)
        excused = any(r.state in (S.DRAINING, S.PENDING) for r in seen.replicas)
        assert risen or excused or before.canary
