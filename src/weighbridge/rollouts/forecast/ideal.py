"""Run the planner forward in a world where every replica does as its pace says. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from weighbridge.replicas.model import Replica, ReplicaState
from weighbridge.rollouts.forecast.model import Course, Outlook, Pace, Share, Step, StepKind
from weighbridge.rollouts.model import Deployment, RolloutLimits, RolloutStatus
from weighbridge.rollouts.moves import (
    Action,
    AdoptReplica,
    DrainReplica,
    StartReplica,
    StopReplica,
    runs,
)
from weighbridge.rollouts.plan import Seen, plan

WORK_MAX = 200_000
"""Replicas looked at over all passes, about two seconds of one core; then the forecast is left incomplete."""

S = ReplicaState


def course(outlook: Outlook, pace: Pace, now: datetime, limits: RolloutLimits) -> Course:
    """What the last deployment of the queue would do, once those before it have ended as well as they can."""
    world = _World(outlook, pace, now, limits)
    for deployment in outlook.queue[:-1]:
        ahead = world.run(deployment)
        if not ahead.status.final:
            return world.unreached(ahead, (world.now - now).total_seconds())
    began = world.now
    new = outlook.queue[-1]
    world.watch()
    ended = world.run(new)
    stands = world.stands(ended)
    return Course(
        steps=tuple(world.steps),
        status=ended.status,
        reason=ended.reason,
        waits_s=(began - now).total_seconds(),
        takes_s=(world.now - began).total_seconds(),
        routed_before=world.routed_before,
        routed_min=world.routed_min,
        slots_max=world.slots_max,
        gap_s=world.gap_s,
        complete=ended.status.final or stands,
        share=world.share(ended) if stands else None,
    )


@dataclass
class _World:
    """One endpoint whose replicas never fail; the planner under `run` is the real one."""

    outlook: Outlook
    pace: Pace
    now: datetime
    limits: RolloutLimits
    replicas: dict[str, Replica] = field(init=False)
    base: Deployment | None = field(init=False)
    steps: list[Step] = field(default_factory=list)
    routed_before: int = 0
    routed_min: int = 0
    slots_max: int = 0
    gap_s: float = 0.0
    _since: datetime | None = None
    _made: int = 0
    _work: int = 0

    def __post_init__(self) -> None:
        # A replica that fails its probes now recovers: nothing fails in this world.
        self.replicas = {r.id: replace(r, probe_failures=0) for r in self.outlook.replicas}
        self.base = self.outlook.base

    def watch(self) -> None:
        """Write down every step from now on."""
        self._since = self.now
        self.routed_before = self.routed_min = self._routed()
        self.slots_max = self._slots()

    def run(self, deployment: Deployment) -> Deployment:
        """The deployment as it ends; not final when the work was too much."""
        known = {deployment.id: deployment}
        begun = deployment.status is not RolloutStatus.NOT_STARTED
        pinned = self.outlook.active_base if begun else self.base
        if pinned is not None:
            known[pinned.id] = pinned
        while not deployment.status.final and self._work < WORK_MAX:
            self._work += 1 + len(self.replicas)
            seen = Seen(
                deployment,
                pinned,
                self.outlook.endpoint,
                endpoint_deleted=False,
                replicas=tuple(self.replicas.values()),
            )
            decision = plan(seen, self.now, self.limits)
            turned = decision.after.status is not deployment.status
            deployment = decision.after
            for replica_id in decision.counted:
                self._put(replace(self.replicas[replica_id], failure_counted=True))
            self._act(decision.actions, known)
            if turned or decision.actions:
                continue
            if self.stands(deployment) or not self._wait(decision.next_at):
                break
        if deployment.status is RolloutStatus.DONE:
            self.base = deployment
        return deployment

    def unreached(self, ahead: Deployment, waits_s: float) -> Course:
        """The new deployment does not begin as far as one can see: the endpoint stays as it is then."""
        routed = self._routed()
        return Course(
            steps=(),
            status=RolloutStatus.NOT_STARTED,
            reason=f"waits behind {ahead.id}: {ahead.reason}",
            waits_s=waits_s,
            takes_s=0.0,
            routed_before=routed,
            routed_min=routed,
            slots_max=self._slots(),
            gap_s=0.0,
            complete=False,
        )

    def stands(self, deployment: Deployment) -> bool:
        """A whole canary goes on only when somebody promotes it."""
        whole = deployment.canary and deployment.updated_replicas >= deployment.canary_replicas
        under_way = deployment.status is RolloutStatus.IN_PROGRESS
        return whole and under_way and all(self._due(r) is None for r in self.replicas.values())

    def share(self, canary: Deployment) -> Share:
        """What of the endpoint a canary that stands has."""
        routed = [r for r in self.replicas.values() if r.state is S.READY]
        mine = sum(runs(r, canary) for r in routed)
        return Share(canary.traffic_percent or 0, mine, len(routed) - mine)

    def _act(self, actions: Sequence[Action], known: dict[str, Deployment]) -> None:
        moved: list[tuple[StepKind, int]] = []
        for action in actions:
            match action:
                case StartReplica(deployment_id):
                    self._start(known[deployment_id])
                    moved.append((StepKind.START, known[deployment_id].version_number))
                case AdoptReplica(replica_id, deployment_id):
                    adopted = replace(self.replicas[replica_id], deployment_id=deployment_id)
                    moved.append((StepKind.ADOPT, self._put(adopted)))
                case DrainReplica(replica_id):
                    moved.append((StepKind.DRAIN, self._become(replica_id, S.DRAINING)))
                case StopReplica(replica_id):
                    moved.append((StepKind.STOP, self._become(replica_id, S.STOPPING)))
        self._note(moved)

    def _wait(self, next_at: datetime | None) -> bool:
        """Go on to the next instant at which anything changes; False when nothing ever will."""
        dues = [at for r in self.replicas.values() if (at := self._due(r)) is not None]
        later = [at for at in (*dues, next_at) if at is not None and at > self.now]
        if not later and not dues:
            return False
        then = self.now if any(at <= self.now for at in dues) else min(later)
        if self._since is not None and self.routed_before > 0 and self._routed() == 0:
            self.gap_s += (then - self.now).total_seconds()
        self.now = then
        moved: list[tuple[StepKind, int]] = []
        for one in list(self.replicas.values()):
            due = self._due(one)
            if due is not None and due <= self.now:
                moved += self._step(one)
        self._note(moved)
        return True

    def _due(self, one: Replica) -> datetime | None:
        """When a replica's state changes by itself; None: never."""
        seconds = {
            S.PENDING: self.pace.start_s,
            S.STARTING: self.pace.start_s,
            S.WARMING: self.pace.start_s,
            S.DRAINING: self.pace.drain_s,
            S.STOPPING: self.pace.stop_s,
            S.FAILING: self.pace.stop_s,
        }.get(one.state)
        if one.state is S.READY and one.routed_at is None:
            return (one.ready_at or one.state_since) + timedelta(seconds=self.pace.route_s)
        if seconds is None:
            return None
        climbing = one.state in (S.PENDING, S.STARTING, S.WARMING)
        since = one.created_at if climbing else one.state_since
        return since + timedelta(seconds=seconds)

    def _step(self, one: Replica) -> list[tuple[StepKind, int]]:
        match one.state:
            case S.PENDING | S.STARTING | S.WARMING:
                self._put(replace(one, state=S.READY, state_since=self.now, ready_at=self.now))
            case S.READY:
                return [(StepKind.ROUTE, self._put(replace(one, routed_at=self.now)))]
            case S.DRAINING:
                del self.replicas[one.id]
                return [(StepKind.STOP, one.version_number)]
            case _:
                del self.replicas[one.id]
        return []

    def _start(self, made_for: Deployment) -> None:
        self._made += 1
        one = _ideal_replica(f"ideal-{self._made:06}", made_for, self.now)
        self.replicas[one.id] = one

    def _become(self, replica_id: str, state: ReplicaState) -> int:
        return self._put(replace(self.replicas[replica_id], state=state, state_since=self.now))

    def _put(self, one: Replica) -> int:
        self.replicas[one.id] = one
        return one.version_number

    def _routed(self) -> int:
        return sum(
            r.state is S.READY and r.routed_at is not None and r.routed_at <= self.now
            for r in self.replicas.values()
        )

    def _slots(self) -> int:
        return sum(not r.state.final for r in self.replicas.values())

    def _note(self, moved: Sequence[tuple[StepKind, int]]) -> None:
        """Equal moves of one instant are one step."""
        if self._since is None or not moved:
            return
        routed, slots = self._routed(), self._slots()
        self.routed_min = min(self.routed_min, routed)
        self.slots_max = max(self.slots_max, slots)
        at_s = (self.now - self._since).total_seconds()
        for kind, number in dict.fromkeys(moved):
            count = moved.count((kind, number))
            self.steps.append(Step(at_s, kind, number, count, routed, slots))


def _ideal_replica(replica_id: str, made_for: Deployment, now: datetime) -> Replica:
    return Replica(
        id=replica_id,
        endpoint_id=made_for.endpoint_id,
        deployment_id=made_for.id,
        version_id=made_for.version_id,
        version_number=made_for.version_number,
        digest=made_for.digest,
        fingerprint=made_for.fingerprint,
        state=S.STARTING,
        reason="",
        slot=0,
        url=None,
        incarnation=None,
        probe_passes=0,
        probe_failures=0,
        failure_counted=False,
        routed_generation=None,
        routed_at=None,
        unrouted_generation=None,
        created_at=now,
        state_since=now,
        ready_at=None,
        drain_deadline=None,
        revision=1,
        settings_digest=made_for.settings_digest,
    )
