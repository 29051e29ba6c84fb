"""What a receipt is told of a deployment: submitted, started, progress, turned back, ended. Pure."""

from collections.abc import Mapping
from datetime import datetime

from weighbridge.rollouts.model import Deployment, RolloutStatus
from weighbridge.usage.model import VersionFigures


def submitted(deployment: Deployment, *, asked_by: str | None) -> Mapping[str, object]:
    """`asked_by` is the id of the key that asked; None where no key did."""
    percent = deployment.traffic_percent
    return {
        **({} if percent is None else {"traffic_percent": percent}),
        "event": "submitted",
        "at": deployment.created_at.isoformat(),
        "endpoint": deployment.endpoint_id,
        "model_arch_id": deployment.arch_id,
        "reference": deployment.reference,
        "version": deployment.version_number,
        "digest": deployment.digest,
        "fingerprint": deployment.fingerprint,
        "asked_by": asked_by,
    }


def deployment_events(
    before: Deployment, after: Deployment, base: Deployment | None, now: datetime
) -> list[Mapping[str, object]]:
    """`base` is the deployment to go back to, when there is one."""
    at = now.isoformat()
    events: list[Mapping[str, object]] = []
    if after.cancel_requested and not before.cancel_requested:
        events.append({"event": "cancel_requested", "at": at})
    if after.promoted_at is not None and before.promoted_at is None:
        events.append({"event": "promoted", "at": at})
    if before.status is RolloutStatus.NOT_STARTED and after.status is RolloutStatus.IN_PROGRESS:
        events.append(
            {
                "event": "started",
                "at": at,
                "replicas": after.replicas,
                "max_unavailable": after.max_unavailable,
                "max_surge": after.max_surge,
                "floor": max(0, after.replicas - after.max_unavailable),
                "base_version": None if base is None else base.version_number,
                "base_deployment": after.base_deployment_id,
            }
        )
    if counts := _counts(before, after):
        words = {"reason": after.reason} if after.reason else {}
        events.append({"event": "progress", "at": at, **counts, **words})
    if after.status is not before.status and after.status is RolloutStatus.ROLLING_BACK:
        events.append({"event": "turned_back", "at": at, "cause": after.error_message})
    if after.status is not before.status and after.status.final:
        events.append(
            {
                "event": "ended",
                "at": at,
                "status": after.status.value,
                "reason": after.reason,
                "error": after.error_message,
            }
        )
    return events


def gate_event(
    figures: Mapping[int, VersionFigures], after: Deployment, now: datetime
) -> Mapping[str, object]:
    """What the gate had seen of each version when the rollout took a turn."""
    return {
        "event": "gate",
        "at": now.isoformat(),
        "outcome": after.status.value,
        "figures": [
            {
                "version": version,
                "requests": seen.requests,
                "errors": seen.errors,
                "empty": seen.empty,
                "ttft_p95_ms": round(seen.ttft_p95_s * 1000) if seen.ttft_count else None,
            }
            for version, seen in sorted(figures.items())
        ],
    }


def _counts(before: Deployment, after: Deployment) -> Mapping[str, int]:
    """The counters that rose; each is a high-water mark or an account."""
    pairs = {
        "updated": (before.updated_max, after.updated_max),
        "failures": (before.failures, after.failures),
        "restored": (before.restored_max, after.restored_max),
        "restore_failures": (before.restore_failures, after.restore_failures),
    }
    return {name: new for name, (old, new) in pairs.items() if new > old}
