"""Keep an endpoint without an active rollout at its size, on the version it last finished. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from weighbridge.replicas.model import Replica, ReplicaState
from weighbridge.rollouts.causes import many
from weighbridge.rollouts.model import Deployment, RolloutLimits
from weighbridge.rollouts.moves import (
    CLIMB,
    Action,
    DrainReplica,
    StartReplica,
    StopReplica,
    backoff_end,
    is_available,
    recent_failures,
    runs,
    uncounted,
)


@dataclass(frozen=True, slots=True)
class Upkeep:
    """As `Plan`, for an endpoint without a rollout; a failure counted here is on no rollout's account."""

    actions: tuple[Action, ...]
    reason: str
    counted: tuple[str, ...]
    next_at: datetime | None = None


def steady_plan(
    base: Deployment | None,
    replicas: Sequence[Replica],
    size: int,
    now: datetime,
    limits: RolloutLimits,
    *,
    surge: int,
) -> Upkeep:
    """Replace what was lost, follow a new size, and drain an endpoint that was deleted (`size` 0).

    Every ready replica counts, whatever its version: what a rollout that ended in `error` left behind
    serves on (R5). New replicas are of `base` only (R12); without one, nothing is started. Replacements
    back off, so a crash loop costs less and less; what is not yet confirmed dead holds its slot (R3).
    """
    wanted = [r for r in replicas if r.state.wanted]
    # A replica that is not ready and not of the base version was never asked to stay.
    strays = [
        r
        for r in wanted
        if r.state is not ReplicaState.READY and (base is None or not runs(r, base))
    ]
    rest = [r for r in wanted if r not in strays]
    rest.sort(key=lambda r: _worth(r, base, now, limits), reverse=True)
    leaving = strays + rest[size:]
    actions: list[Action] = [
        DrainReplica(r.id) if r.state is ReplicaState.READY else StopReplica(r.id) for r in leaving
    ]
    missing = size - len(rest)
    ready = sum(r.state is ReplicaState.READY for r in rest[:size])
    words = f"{ready}/{many(size)} ready"
    counted = uncounted(replicas)
    missing = min(missing, size + surge - sum(not r.state.final for r in replicas))
    if missing <= 0 or base is None:
        return Upkeep(tuple(actions), words, counted)
    at = _restart_at(replicas, size, limits)
    if at is not None and now < at:
        words = f"{words}; replacing {missing} at {at.isoformat()}"
        return Upkeep(tuple(actions), words, counted, at)
    actions += [StartReplica(base.id)] * missing
    return Upkeep(tuple(actions), f"{words}; replacing {missing}", counted)


def _restart_at(replicas: Sequence[Replica], size: int, limits: RolloutLimits) -> datetime | None:
    """Failures are counted in rounds of the endpoint's size: all replicas failing at once is one strike."""
    ended = recent_failures(replicas)
    if not ended:
        return None
    failed = sum(r.state is ReplicaState.FAILED for r in ended)
    return backoff_end(ended, -(-failed // max(1, size)), limits.upkeep_backoff_s)


def _worth(
    replica: Replica, base: Deployment | None, now: datetime, limits: RolloutLimits
) -> tuple[int, bool, bool, float, str]:
    return (
        CLIMB.index(replica.state),
        is_available(replica, now, limits),
        base is not None and runs(replica, base),
        -(replica.ready_at or now).timestamp(),
        replica.id,
    )
