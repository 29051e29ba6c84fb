"""Which replicas to adopt, remove and start on the way to one version, within an endpoint's limits. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from weighbridge.replicas.model import Replica, ReplicaState
from weighbridge.rollouts.model import Deployment, RolloutLimits

CLIMB = (
    ReplicaState.PENDING,
    ReplicaState.STARTING,
    ReplicaState.WARMING,
    ReplicaState.READY,
)
"""How far a wanted replica has come."""


@dataclass(frozen=True, slots=True)
class StartReplica:
    deployment_id: str


@dataclass(frozen=True, slots=True)
class DrainReplica:
    """A ready replica leaves the routes, finishes its streams and ends."""

    replica_id: str


@dataclass(frozen=True, slots=True)
class StopReplica:
    """A replica that serves nobody yet ends at once."""

    replica_id: str


@dataclass(frozen=True, slots=True)
class AdoptReplica:
    """A running replica of the same version counts for another deployment from now on (R17)."""

    replica_id: str
    deployment_id: str


Action = StartReplica | DrainReplica | StopReplica | AdoptReplica


@dataclass(frozen=True, slots=True)
class Shape:
    """T, U and S of reliability A3."""

    replicas: int
    max_unavailable: int
    max_surge: int

    @property
    def floor(self) -> int:
        return max(0, self.replicas - self.max_unavailable)

    @property
    def slots(self) -> int:
        return self.replicas + self.max_surge


@dataclass(frozen=True, slots=True)
class Moves:
    """The next moves, and what they were decided from.

    `complete` says that every wanted replica is an available one of the goal; then no floor keeps the others, and
    the same actions let all of them go. `drain_blocks` says that only a drain keeps the next replica from
    starting. `next_at` is when the clock alone changes the answer.
    """

    actions: tuple[Action, ...]
    available: int
    complete: bool
    drain_blocks: bool
    settled_at: datetime | None
    next_at: tuple[datetime, ...]

    def without_drains(self) -> "Moves":
        """Those that take nobody away who serves; what waits for it is not complete."""
        kept = tuple(action for action in self.actions if not isinstance(action, DrainReplica))
        return replace(self, actions=kept, complete=self.complete and kept == self.actions)


def available_at(replica: Replica, limits: RolloutLimits) -> datetime | None:
    """When a ready, routed replica counts as available; None while it is not, or fails its probes.

    The time begins anew when it was about to be given up (R14).
    """
    if replica.state is not ReplicaState.READY or replica.ready_at is None:
        return None
    if replica.routed_at is None or replica.probe_failures > 0:
        return None
    return max((replica.ready_at, *replica.flips)) + timedelta(seconds=limits.min_ready_s)


def runs(replica: Replica, deployment: Deployment) -> bool:
    """Whether a replica is what the deployment asks for: its version under its engine settings (R17)."""
    return (replica.version_id, replica.settings_digest) == (
        deployment.version_id,
        deployment.settings_digest,
    )


def is_available(replica: Replica, now: datetime, limits: RolloutLimits) -> bool:
    since = available_at(replica, limits)
    return since is not None and now >= since


@dataclass(frozen=True, slots=True)
class Aim:
    """Where an endpoint's replicas are to go: to `goal` (None: to nothing), within `shape`.

    Until a replica of the goal has been available (`proven`), what fails among the others is replaced by
    `base`: a failure must not push an unproven version. With a `share`, only so many replicas go to the
    goal, and the rest stay with the base, one at least.
    """

    goal: Deployment | None
    base: Deployment | None
    shape: Shape
    proven: bool
    share: int | None = None

    @property
    def wanted(self) -> int:
        return self.shape.replicas if self.share is None else self.share

    @property
    def held(self) -> int:
        """How many replicas of the base stay."""
        return 0 if self.share is None else max(1, self.shape.replicas - self.share)


def converge(aim: Aim, replicas: Sequence[Replica], now: datetime, limits: RolloutLimits) -> Moves:
    """Move an endpoint's replicas towards the aim, one safe step at a time.

    Worked example, T=3 U=0 S=1, so floor 3 and slots 4. Three old replicas are available: none may be
    drained (2 < 3), one slot is free, so one new replica starts. It becomes available: 4 available, one old
    one drains and still holds its slot, so nothing starts. It ends: 3 slots taken, the next one starts. An old one
    crashes now: 2 available, below the floor, so nothing is drained; the next new replica that becomes available
    brings back 3, another one 4, and only then the last old one drains.
    """
    goal, shape = aim.goal, aim.shape
    wanted = [r for r in replicas if r.state.wanted]
    mine = [r for r in wanted if goal is not None and runs(r, goal)]
    mine.sort(key=lambda r: _worth(r, now, limits), reverse=True)
    kept = mine[: aim.wanted]
    held = _held(aim, wanted, now, limits)
    others = [r for r in wanted if r not in kept and r not in held]
    actions: list[Action] = [
        AdoptReplica(r.id, goal.id) for r in kept if goal and r.deployment_id != goal.id
    ]
    times = [at for r in kept if (at := available_at(r, limits)) is not None]
    available = sum(at <= now for at in times)
    same = goal is not None and aim.base is not None and goal.version_id == aim.base.version_id
    spare = None if aim.proven or available or same else aim.base
    removals = _removals(aim, wanted, others, now, limits, keep=spare is not None)
    actions += removals

    missing = aim.held - len(held)
    if spare is not None:
        missing = max(missing, shape.floor - (len(held) + len(others) - len(removals)))
    # A draining, stopping or failing replica still holds its accelerator, and so its slot (R3).
    room = shape.slots - sum(not r.state.final for r in replicas)
    need = 0 if goal is None else aim.wanted - len(kept)
    starts = [(aim.base, min(missing, room)), (goal, min(need, room - missing))]
    next_at: list[datetime] = []
    for deployment, count in starts:
        if deployment is not None and count > 0:
            at = restart_at(deployment, replicas, limits)
            if at is None or now >= at:
                actions += [StartReplica(deployment.id)] * count
            else:
                next_at.append(at)

    leaving = any(r.state is ReplicaState.DRAINING for r in replicas)
    return Moves(
        actions=tuple(actions),
        available=available,
        complete=available == need + len(kept)
        and sum(is_available(r, now, limits) for r in held) == aim.held,
        drain_blocks=need > 0 and room <= 0 and leaving,
        settled_at=max(times, default=None),
        next_at=(*next_at, *times),
    )


def _held(
    aim: Aim, wanted: Sequence[Replica], now: datetime, limits: RolloutLimits
) -> list[Replica]:
    if aim.base is None or not aim.held:
        return []
    base = [r for r in wanted if runs(r, aim.base)]
    base.sort(key=lambda r: _worth(r, now, limits), reverse=True)
    return base[: aim.held]


def _removals(
    aim: Aim,
    wanted: Sequence[Replica],
    others: Sequence[Replica],
    now: datetime,
    limits: RolloutLimits,
    *,
    keep: bool,
) -> list[Action]:
    """Who of the others may go now: first those that serve nobody, then ready ones down to the floor (R2)."""
    ready = [r for r in others if r.state is ReplicaState.READY]
    idle = [r for r in others if r.state is not ReplicaState.READY]
    if keep:
        idle.sort(key=lambda r: _worth(r, now, limits), reverse=True)
        idle = idle[max(0, aim.shape.floor - len(ready)) :]
    removals: list[Action] = [StopReplica(r.id) for r in idle]
    # What an earlier rollout left behind goes before the version to return to, the unproven before the proven.
    ready.sort(
        key=lambda r: (
            aim.base is not None and runs(r, aim.base),
            _worth(r, now, limits),
        )
    )
    available = sum(is_available(r, now, limits) for r in wanted)
    for replica in ready:
        loss = int(is_available(replica, now, limits))
        if available - loss >= aim.shape.floor:
            removals.append(DrainReplica(replica.id))
            available -= loss
    return removals


def restart_at(
    deployment: Deployment, replicas: Sequence[Replica], limits: RolloutLimits
) -> datetime | None:
    """When the next replica of a deployment may start after failures of earlier ones; None: at once."""
    ended = [r for r in recent_failures(replicas) if r.deployment_id == deployment.id]
    if not ended:
        return None
    strikes = sum(r.state is ReplicaState.FAILED for r in ended)
    return backoff_end(ended, strikes, limits.backoff_s)


def recent_failures(replicas: Iterable[Replica]) -> list[Replica]:
    return [r for r in replicas if r.state in (ReplicaState.FAILED, ReplicaState.LOST)]


def uncounted(replicas: Iterable[Replica]) -> tuple[str, ...]:
    """Failures and losses that are on no account yet; until they are, they stay in sight however old."""
    return tuple(sorted(r.id for r in recent_failures(replicas) if not r.failure_counted))


def backoff_end(ended: Sequence[Replica], strikes: int, steps_s: Sequence[float]) -> datetime:
    """The last failure plus the pause that so many strikes cost.

    A lost replica costs the first pause and no more: it says nothing against what ran on its node.
    """
    ends = [r.state_since + timedelta(seconds=steps_s[0]) for r in ended]
    failures = [r.state_since for r in ended if r.state is ReplicaState.FAILED]
    if failures:
        pause_s = steps_s[min(max(strikes, 1), len(steps_s)) - 1]
        ends.append(max(failures) + timedelta(seconds=pause_s))
    return max(ends)


def _worth(replica: Replica, now: datetime, limits: RolloutLimits) -> tuple[bool, int, float, str]:
    """Sorts replicas from the least to the most worth keeping: available, far up, long ready; the id breaks ties."""
    ready_at = replica.ready_at or now
    return (
        is_available(replica, now, limits),
        CLIMB.index(replica.state),
        -ready_at.timestamp(),
        replica.id,
    )
