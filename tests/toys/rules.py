"""What each decision of the rollout planners must keep, in any world; counted here by itself, not by their code."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from weighbridge.replicas.model import Replica, ReplicaState
from weighbridge.rollouts.model import TRANSITIONS, Deployment, RolloutLimits, RolloutStatus
from weighbridge.rollouts.moves import DrainReplica, StartReplica, StopReplica, runs
from weighbridge.rollouts.plan import Plan, Seen
from weighbridge.rollouts.steady import Upkeep

S = ReplicaState


def counts(one: Replica, now: datetime, limits: RolloutLimits) -> bool:
    """Whether a replica counts as available: ready, in the routing table, proven by probes and time (R2, R14)."""
    if one.state is not S.READY or one.ready_at is None or one.routed_at is None:
        return False
    proven_at = max(one.ready_at, *one.flips) if one.flips else one.ready_at
    return one.probe_failures == 0 and now >= proven_at + timedelta(seconds=limits.min_ready_s)


def check_plan(seen: Seen, decision: Plan, now: datetime, limits: RolloutLimits) -> None:
    """What every plan must keep, in any world (R2, R3, R6, R9 to R14)."""
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
    _check_ends(seen, decision, available, now, limits)
    _check_counters(seen, decision, available, limits)


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


def _check_ends(
    seen: Seen, decision: Plan, available: set[str], now: datetime, limits: RolloutLimits
) -> None:
    """What is not complete goes on only within each limit of time (R9), and not after a crash while it was (B3)."""
    before, after = seen.deployment, decision.after
    if before.canary or {before.status, after.status} != {RolloutStatus.IN_PROGRESS}:
        return
    if sum(r.id in available and runs(r, before) for r in seen.replicas) >= before.replicas:
        return
    own = [r for r in seen.replicas if r.deployment_id == before.id]
    waiting = [r for r in own if r.state is S.PENDING]
    assert before.started_at is not None
    assert after.progress_at is not None
    assert now < before.started_at + timedelta(seconds=limits.total_s)
    assert all(now < r.created_at + timedelta(seconds=limits.capacity_s) for r in waiting)
    assert waiting or now < after.progress_at + timedelta(seconds=limits.progress_s)
    crashed = any(r.state is S.FAILED and not r.failure_counted for r in own)
    assert seen.base is None or before.updated_max < before.replicas or not crashed


def _check_pause(seen: Seen, deployment_id: str, now: datetime, limits: RolloutLimits) -> None:
    """Each failure in a row lengthens the pause before the next start; a loss costs the first one (B3)."""
    own = [r for r in seen.replicas if r.deployment_id == deployment_id]
    _check_paused(own, sum(r.state is S.FAILED for r in own), limits.backoff_s, now)


def _check_paused(
    replicas: Sequence[Replica], strikes: int, steps_s: Sequence[float], now: datetime
) -> None:
    pause_s = {S.FAILED: steps_s[max(0, min(strikes, len(steps_s)) - 1)], S.LOST: steps_s[0]}
    for ended in replicas:
        if ended.state in pause_s:
            assert now >= ended.state_since + timedelta(seconds=pause_s[ended.state])


def check_upkeep(
    base: Deployment | None,
    replicas: Sequence[Replica],
    upkeep: Upkeep,
    now: datetime,
    limits: RolloutLimits,
    *,
    size: int,
    surge: int,
) -> None:
    """What keeping an endpoint at its size must keep, in any world (R2, R3, R5, R12, R13)."""
    by_id = {r.id: r for r in replicas}
    removed = [
        by_id[a.replica_id] for a in upkeep.actions if isinstance(a, DrainReplica | StopReplica)
    ]
    started = [a.deployment_id for a in upkeep.actions if isinstance(a, StartReplica)]
    assert len(removed) + len(started) == len(upkeep.actions)
    assert len({r.id for r in removed}) == len(removed)
    for action in upkeep.actions:
        if isinstance(action, DrainReplica):
            assert by_id[action.replica_id].state is S.READY
        elif isinstance(action, StopReplica):
            assert by_id[action.replica_id].state in (S.PENDING, S.STARTING, S.WARMING)
    # R2, R5: whoever serves beyond the size may go, none else, and no available one before another.
    serving_ = [r for r in replicas if r.state is S.READY]
    gone = {r.id for r in removed}
    left = [r for r in serving_ if r.id not in gone]
    assert len(left) >= min(size, len(serving_))
    if any(counts(r, now, limits) for r in serving_ if r.id in gone):
        assert all(counts(r, now, limits) for r in left)
    # R3, R12
    assert set(started) <= ({base.id} if base else set())
    if started:
        assert sum(not r.state.final for r in replicas) + len(started) <= size + surge
        failed = sum(r.state is S.FAILED for r in replicas)
        _check_paused(replicas, -(-failed // max(1, size)), limits.upkeep_backoff_s, now)
    # R13
    ended = {r.id for r in replicas if r.state in (S.FAILED, S.LOST) and not r.failure_counted}
    assert set(upkeep.counted) == ended


def _check_counters(seen: Seen, decision: Plan, available: set[str], limits: RolloutLimits) -> None:
    before, after = seen.deployment, decision.after
    # R10
    assert 0 <= after.updated_replicas <= max(after.replicas, before.updated_replicas)
    if after.status is before.status:
        on_target = sum(r.id in available and runs(r, before) for r in seen.replicas)
        assert after.updated_replicas <= on_target
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
        over = after.failures >= limits.failures_max(before.replicas)
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
