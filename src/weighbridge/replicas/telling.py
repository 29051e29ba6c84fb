"""What a receipt is told of replicas: one event for each step of their lives. Pure."""

from collections.abc import Mapping
from datetime import datetime

from weighbridge.replicas.model import Replica, ReplicaState
from weighbridge.replicas.plan import DRAIN_WAITS, Step


def step_events(before: Replica, step: Step, now: datetime) -> list[Mapping[str, object]]:
    """What a step of the replica reconciler tells: of its exam first, then of what became of it."""
    told = replica_events(before, step.after, now, in_flight=step.in_flight)
    exam = step.exam
    if exam is None:
        return told
    event: dict[str, object] = {
        "event": "acceptance",
        "at": now.isoformat(),
        "replica": before.id,
        "version": before.version_number,
        "passed": exam.passed,
        "probes": exam.probes,
    }
    if exam.detail:
        event["detail"] = exam.detail
    if exam.notes:
        event["notes"] = list(exam.notes)
    return [event, *told]


def replica_events(
    before: Replica | None, after: Replica, now: datetime, *, in_flight: int | None = None
) -> list[Mapping[str, object]]:
    """`before` is None for a new replica; `in_flight` are its requests while it drains, None when unknown."""
    about = {
        "event": "replica",
        "at": now.isoformat(),
        "replica": after.id,
        "version": after.version_number,
    }
    events: list[Mapping[str, object]] = []
    if before is None or before.state is not after.state:
        event: dict[str, object] = {**about, "state": after.state.value}
        if after.reason:
            event["reason"] = after.reason
        if after.state is ReplicaState.WARMING:
            # It has just reported these bytes itself (R15).
            event["digest"] = after.digest
        if after.state is ReplicaState.STOPPING and in_flight is not None:
            event["in_flight"] = in_flight
        events.append(event)
    if before is None:
        return events
    if before.routed_at is None and after.routed_at is not None:
        events.append({**about, "state": "routed"})
    if before.reason != DRAIN_WAITS and after.reason == DRAIN_WAITS:
        # Every gateway has let go of it: these requests are what there is to drain.
        events.append({**about, "state": "unrouted", "in_flight": in_flight})
    if before.deployment_id != after.deployment_id:
        events.append({**about, "state": "adopted", "deployment": after.deployment_id})
    return events
