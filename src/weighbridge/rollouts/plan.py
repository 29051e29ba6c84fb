"""Decide the next step of a rollout. Pure: no clock, no database, no network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from weighbridge.endpoints.model import Endpoint
from weighbridge.replicas.model import Replica
from weighbridge.rollouts.causes import (
    cause,
    due,
    held_for_base,
    many,
    new_failures,
    pending,
    untouched,
    waiting_error,
    waiting_words,
)
from weighbridge.rollouts.gate import verdict
from weighbridge.rollouts.model import Deployment, RolloutLimits, RolloutStatus
from weighbridge.rollouts.moves import (
    Action,
    Aim,
    Moves,
    Shape,
    converge,
    is_available,
    uncounted,
)
from weighbridge.usage.model import VersionFigures


@dataclass(frozen=True, slots=True)
class Seen:
    """What a decision is made from, read in one transaction.

    `base` is the deployment to go back to: the endpoint's before the rollout starts, the one pinned at the
    start afterwards. `replicas` are the endpoint's replicas that are not final, and those that failed or were
    lost lately or are not yet accounted for.
    """

    deployment: Deployment
    base: Deployment | None
    endpoint: Endpoint
    endpoint_deleted: bool
    replicas: Sequence[Replica]
    withdrawn: bool = False
    """Whether the version was deleted, or is no longer whole; it matters before the start."""
    figures: Mapping[int, VersionFigures] = field(default_factory=dict)
    """By version number, how its requests ended; of the base also from before the rollout."""
    fetching: str = ""
    """What of the target's weights is on its way to the nodes of the replicas that it replaces; empty: nothing."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The deployment as it is from now on, the actions that go with it, and when to look again.

    `after` carries status, reason, error message and counters. `counted` names the ended replicas that this
    plan has put on an account, so that no failure counts twice or is forgotten.
    """

    after: Deployment
    actions: tuple[Action, ...] = ()
    counted: tuple[str, ...] = ()
    next_at: datetime | None = None


def plan(seen: Seen, now: datetime, limits: RolloutLimits) -> Plan:
    """Return where the rollout stands and the step that brings it closer to its goal (reliability B3).

    Called again and again until the status is final, so each step may be small: what it cannot do safely
    now, a later call will do. Total: there is an answer for every state of the world.
    """
    match seen.deployment.status:
        case RolloutStatus.NOT_STARTED:
            return _start(seen, now)
        case RolloutStatus.IN_PROGRESS:
            return _advance(seen, now, limits)
        case RolloutStatus.ROLLING_BACK:
            return _restore(seen, now, limits)
        case _:
            return Plan(seen.deployment)


def _start(seen: Seen, now: datetime) -> Plan:
    deployment = seen.deployment
    if deployment.cancel_requested:
        return _end(seen, deployment, RolloutStatus.CANCELLED, "cancelled before it started", now)
    if seen.endpoint_deleted:
        return _endpoint_gone(seen, deployment, now)
    if seen.withdrawn:
        words = f"version {deployment.version_number} can no longer be deployed; upload it again"
        return _end(seen, deployment, RolloutStatus.ERROR, words, now)
    endpoint = seen.endpoint
    if seen.base is None or _same(seen.base, deployment):
        # Nobody to share the requests with.
        deployment = replace(deployment, traffic_percent=None)
    if deployment.canary and seen.base and seen.base.version_id == deployment.version_id:
        # Gateways tell versions apart, not engine settings: a share of the requests could not be had.
        words = (
            f"version {deployment.version_number} serves already with other engine settings, and requests are "
            "shared between versions only; deploy it without traffic_percent"
        )
        return _end(seen, deployment, RolloutStatus.ERROR, words, now)
    if deployment.canary and endpoint.replicas + endpoint.max_surge < 2:
        words = "no room for two versions: one replica, and no surge"
        return _end(seen, deployment, RolloutStatus.ERROR, words, now)
    started = replace(
        deployment,
        status=RolloutStatus.IN_PROGRESS,
        reason=f"0/{many(endpoint.replicas)} ready on version {deployment.version_number}",
        base_deployment_id=None if seen.base is None else seen.base.id,
        replicas=endpoint.replicas,
        max_unavailable=endpoint.max_unavailable,
        max_surge=endpoint.max_surge,
        started_at=now,
        progress_at=now,
    )
    return Plan(started, counted=uncounted(seen.replicas))


def _advance(seen: Seen, now: datetime, limits: RolloutLimits) -> Plan:
    deployment = replace(
        seen.deployment,
        failures=seen.deployment.failures + new_failures(seen.replicas, seen.deployment),
    )
    if seen.endpoint_deleted:
        return _endpoint_gone(seen, deployment, now)
    if deployment.cancel_requested:
        return _turn_back(seen, deployment, "cancelled by request", now)
    aim = Aim(
        deployment,
        seen.base,
        _shape(deployment),
        proven=deployment.updated_max > 0,
        share=deployment.canary_replicas if deployment.canary else None,
    )
    moves = converge(aim, seen.replicas, now, limits)
    if seen.fetching:
        moves = moves.without_drains()
    updated = moves.available
    # Waiting for a place has a limit of its own, waiting for a promotion or for the base's replicas has none.
    stands = deployment.canary and moves.complete
    held = held_for_base(deployment, updated)
    fetches = bool(seen.fetching) and not due(deployment.started_at, limits.capacity_s, now)
    waits = moves.drain_blocks or bool(pending(seen.replicas, deployment))
    excused = stands or held or waits or fetches
    progress = updated > deployment.updated_max or (
        excused and due(deployment.progress_at, limits.drain_credit_s, now)
    )
    deployment = replace(
        deployment,
        updated_replicas=updated,
        updated_max=max(updated, deployment.updated_max),
        progress_at=now if progress else deployment.progress_at,
    )
    why = _gate(seen, deployment, limits)
    failed = stands and deployment.failures > seen.deployment.failures
    if moves.complete and why is None and not failed:
        return (_stand if stands else _finish)(seen, deployment, moves, now, limits)
    if why := why or cause(seen.replicas, deployment, seen.base, now, limits):
        if seen.base is None or untouched(seen.replicas, deployment):
            return _end(seen, deployment, RolloutStatus.ERROR, why, now)
        return _turn_back(seen, deployment, why, now)
    deployment = _told(seen, deployment, updated, held=held)
    deadlines = [
        _after(deployment.progress_at, limits.progress_s),
        _after(deployment.started_at, limits.total_s),
    ]
    return Plan(
        deployment,
        moves.actions,
        uncounted(seen.replicas),
        _first(now, *moves.next_at, *deadlines),
    )


def _told(seen: Seen, deployment: Deployment, updated: int, *, held: bool) -> Deployment:
    """With what it waits for."""
    waiting = waiting_words(seen.replicas, deployment)
    more = waiting or seen.fetching or _failure_words(deployment)
    if held and seen.base is not None and not waiting:
        waiting = waiting_words(seen.replicas, seen.base)
        more = f"held until version {seen.base.version_number} has its replicas again"
        more = f"{more}: {waiting}" if waiting else more
    words = _progress_words(updated, deployment, deployment, more)
    return replace(deployment, reason=words, error_message=waiting_error(waiting))


def _stand(
    seen: Seen, deployment: Deployment, moves: Moves, now: datetime, limits: RolloutLimits
) -> Plan:
    """The canary is whole: it stays until somebody promotes or cancels it, or its answers speak against it."""
    words = (
        f"{many(moves.available)} ready on version {deployment.version_number}; "
        f"{deployment.traffic_percent} % of requests go to it until it is promoted"
    )
    standing = replace(deployment, reason=words, error_message=None)
    credit_at = _after(deployment.progress_at, limits.drain_credit_s)
    return Plan(standing, moves.actions, uncounted(seen.replicas), _first(now, credit_at))


def _gate(seen: Seen, deployment: Deployment, limits: RolloutLimits) -> str | None:
    """What speaks against the version in the answers it gave; a version is not compared with itself."""
    base = None if seen.base is None else seen.base.version_number
    target = deployment.version_number
    if target == base or target not in seen.figures:
        return None
    before = None if base is None else (base, seen.figures.get(base, VersionFigures()))
    return verdict((target, seen.figures[target]), before, limits.gate)


def _finish(
    seen: Seen, deployment: Deployment, moves: Moves, now: datetime, limits: RolloutLimits
) -> Plan:
    """All replicas are available on the target and nothing else is left: watch it for a while, then done."""
    baked_at = _after(moves.settled_at, limits.bake_s)
    if baked_at is not None and now < baked_at:
        watched = replace(
            deployment,
            reason=_progress_words(
                moves.available, deployment, deployment, f"watching for {limits.bake_s:g} s"
            ),
            error_message=None,
        )
        return Plan(watched, moves.actions, uncounted(seen.replicas), baked_at)
    done = replace(
        deployment,
        status=RolloutStatus.DONE,
        reason=_progress_words(moves.available, deployment, deployment),
        error_message=None,
        finished_at=now,
    )
    return Plan(done, moves.actions, uncounted(seen.replicas))


def _restore(seen: Seen, now: datetime, limits: RolloutLimits) -> Plan:
    """Bring every replica back to the base version; without one, a cancelled first deployment leaves nothing."""
    deployment, base = seen.deployment, seen.base
    if seen.endpoint_deleted:
        return _endpoint_gone(seen, deployment, now)
    if base is None and not deployment.cancel_requested:
        return _end(seen, deployment, RolloutStatus.ERROR, "there is no version to go back to", now)
    shape = _shape(deployment) if base is not None else Shape(0, 0, 0)
    moves = converge(Aim(base, None, shape, proven=True), seen.replicas, now, limits)
    restored = moves.available
    progress = restored > deployment.restored_max or (
        moves.drain_blocks and due(deployment.progress_at, limits.drain_credit_s, now)
    )
    failures = 0 if base is None else new_failures(seen.replicas, base)
    deployment = replace(
        deployment,
        restore_failures=deployment.restore_failures + failures,
        restored_max=max(restored, deployment.restored_max),
        progress_at=now if progress else deployment.progress_at,
        updated_replicas=_available_of(deployment, base, seen.replicas, now, limits),
    )
    if moves.complete:
        return _restored(seen, deployment, moves, now)
    deadline = _after(deployment.progress_at, limits.rollback_progress_s)
    stalled = deadline is not None and now >= deadline
    if stalled or deployment.restore_failures >= limits.failures_max(deployment.replicas):
        why = (
            f"no progress for {limits.rollback_progress_s:g} s"
            if stalled
            else f"{many(deployment.restore_failures)} failed"
        )
        words = f"{deployment.error_message or 'cancelled'}; going back failed: {why}"
        return _end(seen, deployment, RolloutStatus.ERROR, words, now)
    deployment = replace(
        deployment,
        reason="removing the replicas of the first deployment"
        if base is None
        else f"going back: {_progress_words(restored, deployment, base)}",
    )
    return Plan(
        deployment, moves.actions, uncounted(seen.replicas), _first(now, deadline, *moves.next_at)
    )


def _restored(seen: Seen, deployment: Deployment, moves: Moves, now: datetime) -> Plan:
    words = "nothing" if seen.base is None else f"version {seen.base.version_number}"
    cancelled = deployment.cancel_requested
    back = replace(
        deployment,
        status=RolloutStatus.CANCELLED if cancelled else RolloutStatus.ROLLED_BACK,
        reason=f"restored {words}",
        error_message=f"cancelled; restored {words}" if cancelled else deployment.error_message,
        updated_replicas=0,
        finished_at=now,
    )
    return Plan(back, moves.actions, uncounted(seen.replicas))


def _turn_back(seen: Seen, deployment: Deployment, why: str, now: datetime) -> Plan:
    back = replace(
        deployment,
        status=RolloutStatus.ROLLING_BACK,
        reason=f"going back: {why}",
        error_message=why,
        progress_at=now,
    )
    return Plan(back, counted=uncounted(seen.replicas))


def _end(
    seen: Seen, deployment: Deployment, status: RolloutStatus, words: str, now: datetime
) -> Plan:
    """A final status that changes no replica: what is ready serves on, whatever its version (R5)."""
    ended = replace(deployment, status=status, reason=words, error_message=words, finished_at=now)
    return Plan(ended, counted=uncounted(seen.replicas))


def _endpoint_gone(seen: Seen, deployment: Deployment, now: datetime) -> Plan:
    words = f"endpoint {deployment.endpoint_id} was deleted"
    return _end(seen, deployment, RolloutStatus.ERROR, words, now)


def _available_of(
    deployment: Deployment,
    base: Deployment | None,
    replicas: Sequence[Replica],
    now: datetime,
    limits: RolloutLimits,
) -> int:
    """Replicas still available on the target while going back; one that the base shares is the base's."""
    if base is not None and _same(base, deployment):
        return 0
    own = sum(r.deployment_id == deployment.id and is_available(r, now, limits) for r in replicas)
    return min(own, deployment.replicas)


def _failure_words(deployment: Deployment) -> str:
    return f"{deployment.failures} failed" if deployment.failures else ""


def _same(one: Deployment, other: Deployment) -> bool:
    return (one.version_id, one.settings_digest) == (other.version_id, other.settings_digest)


def _progress_words(ready: int, shape: Deployment, goal: Deployment, more: str = "") -> str:
    canary = shape.canary and goal is shape
    size = shape.canary_replicas if canary else shape.replicas
    words = f"{ready}/{many(size)} ready on version {goal.version_number}"
    return f"{words}; {more}" if more else words


def _shape(deployment: Deployment) -> Shape:
    return Shape(deployment.replicas, deployment.max_unavailable, deployment.max_surge)


def _after(start: datetime | None, seconds: float) -> datetime | None:
    return None if start is None else start + timedelta(seconds=seconds)


def _first(now: datetime, *times: datetime | None) -> datetime | None:
    return min((at for at in times if at is not None and at > now), default=None)
