"""What callers may ask of a canary: that it goes on."""

from dataclasses import replace
from datetime import datetime

from weighbridge.errors import ConflictError
from weighbridge.rollouts import store
from weighbridge.rollouts.model import Deployment, RolloutStatus
from weighbridge.rollouts.service import deployment, record
from weighbridge.storage.database import Transaction


async def promote(
    tx: Transaction, deployment_id: str, *, org_id: str | None, now: datetime
) -> Deployment:
    """Let a canary's rollout go on to all replicas; asking twice is the same as asking once.

    ConflictError when it is none, or is not under way.
    """
    found = await deployment(tx, deployment_id, org_id=org_id)
    await store.lock_endpoint(tx, found.endpoint_id)
    current = await deployment(tx, deployment_id, org_id=org_id)
    if current.promoted_at is not None:
        return current
    under_way = current.status is RolloutStatus.IN_PROGRESS and not current.cancel_requested
    if not under_way or not current.canary:
        what = "being cancelled" if current.cancel_requested else current.status.value
        kind = "and a canary" if current.canary else "and no canary"
        raise ConflictError(
            f"Deployment {deployment_id} is {what} {kind}; only a canary in_progress can be promoted.",
            code="deployment_not_promotable",
        )
    await record(tx, current, replace(current, promoted_at=now, progress_at=now), now)
    return await deployment(tx, deployment_id, org_id=org_id)
