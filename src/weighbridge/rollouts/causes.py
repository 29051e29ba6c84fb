"""Why a rollout may not go on, and what counts against it. Pure."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from weighbridge.replicas.model import Replica, ReplicaState
from weighbridge.rollouts.model import Deployment, RolloutLimits
from weighbridge.runtimes.base import PLACED
from weighbridge.weights.node.pull import PULLING


def cause(
    replicas: Sequence[Replica],
    deployment: Deployment,
    base: Deployment | None,
    now: datetime,
    limits: RolloutLimits,
) -> str | None:
    """The first reason to end the rollout, or None. `deployment` carries the failures counted so far."""
    if deployment.failures >= limits.failures_max(deployment.replicas):
        last = last_failure(replicas, deployment)
        words = f"{many(deployment.failures)} of version {deployment.version_number} failed"
        return f"{words}; the last one: {last}" if last else words
    if base is not None and _crashed_when_complete(replicas, deployment):
        last = last_failure(replicas, deployment)
        return (
            f"a replica of version {deployment.version_number} failed after all were ready: {last}"
        )
    if not deployment.canary and due(
        deployment.promoted_at or deployment.started_at, limits.total_s, now
    ):
        return f"not finished within {limits.total_s:g} s"
    waiting = pending(replicas, deployment)
    if late := [r for r in waiting if due(r.created_at, limits.capacity_s, now)]:
        return _waited_too_long(late[0].reason, limits)
    if not waiting and due(deployment.progress_at, limits.progress_s, now):
        return f"no further replica became ready within {limits.progress_s:g} s"
    return None


def _waited_too_long(reason: str, limits: RolloutLimits) -> str:
    if reason.startswith(PULLING):
        return f"the weights were not on the node within {limits.capacity_s:g} s: {reason}"
    return f"no free place for a new replica within {limits.capacity_s:g} s"


def _crashed_when_complete(replicas: Sequence[Replica], deployment: Deployment) -> bool:
    """A failure while the finished state is watched is the gate's first measure (reliability B3, row 7)."""
    all_ready = deployment.canary_replicas if deployment.canary else deployment.replicas
    return deployment.updated_max >= all_ready and any(
        r.state is ReplicaState.FAILED
        and not r.failure_counted
        and r.deployment_id == deployment.id
        for r in replicas
    )


def untouched(replicas: Sequence[Replica], deployment: Deployment) -> bool:
    """Nothing of the target ever ran and nothing of the rest is missing, so there is nothing to undo."""
    here = [r for r in replicas if not r.state.final]
    new = [r for r in here if r.deployment_id == deployment.id]
    return (
        deployment.failures == 0
        and deployment.updated_max == 0
        and all(r.state is ReplicaState.PENDING for r in new)
        and all(r.state.wanted for r in here)
        and len(here) - len(new) >= deployment.replicas
    )


def new_failures(replicas: Sequence[Replica], account: Deployment) -> int:
    """Failures not counted before (R13). A lost replica speaks against its node, not against the version."""
    return sum(
        r.state is ReplicaState.FAILED and not r.failure_counted and r.deployment_id == account.id
        for r in replicas
    )


def last_failure(replicas: Sequence[Replica], deployment: Deployment) -> str:
    failed = [
        r for r in replicas if r.state is ReplicaState.FAILED and r.deployment_id == deployment.id
    ]
    return max(failed, key=lambda r: r.state_since).reason if failed else ""


def pending(replicas: Sequence[Replica], deployment: Deployment) -> list[Replica]:
    """Those that wait for a place on a node, or for their weights to come there."""
    return [
        r for r in replicas if r.state is ReplicaState.PENDING and r.deployment_id == deployment.id
    ]


def waiting_words(replicas: Sequence[Replica], deployment: Deployment) -> str:
    """What a new replica waits for, in its runtime's words; nothing once it has a place."""
    reasons = (r.reason for r in pending(replicas, deployment))
    return next((reason for reason in reasons if reason not in ("", PLACED)), "")


def waiting_error(waiting: str) -> str | None:
    """The same as a deployment's error message."""
    if not waiting or waiting.startswith(("waiting", PULLING)):
        return waiting or None
    return f"waiting for capacity: {waiting}"


def held_for_base(deployment: Deployment, updated: int) -> bool:
    """Whether a canary has its share and lacks only replicas of its base.

    That speaks against nodes, not against its version: it is held as it is until the base is whole again.
    """
    return deployment.canary and updated >= deployment.canary_replicas


def many(replicas: int) -> str:
    """A number of replicas in words.

    >>> many(1), many(2)
    ('1 replica', '2 replicas')
    """
    return f"{replicas} replica" if replicas == 1 else f"{replicas} replicas"


def due(start: datetime | None, seconds: float, now: datetime) -> bool:
    return start is not None and now >= start + timedelta(seconds=seconds)
