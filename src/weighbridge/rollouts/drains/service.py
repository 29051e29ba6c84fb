"""What callers may ask of drains: that they end soon, whatever is still streaming."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from weighbridge.endpoints import service as endpoint_service
from weighbridge.receipts import service as receipts
from weighbridge.replicas import store as replica_store
from weighbridge.replicas.model import Replica, ReplicaState
from weighbridge.storage.database import Transaction

AFTER_S_MAX = 3_600.0


async def force(
    tx: Transaction,
    endpoint_id: str,
    *,
    org_id: str | None,
    after_s: float,
    now: datetime,
    asked_by: str | None,
) -> Sequence[Replica]:
    """Let the replicas of an endpoint that drain now drain for `after_s` seconds more at most; those replicas.

    A deadline is only ever brought forward (G6), and no gateway is overtaken (G5): what is still in flight then is
    cut, which its client sees as an error event. Replicas that begin to drain later have the usual time. NotFoundError
    for an endpoint that is absent or another org's.
    """
    await endpoint_service.get(tx, endpoint_id, org_id=org_id, lock=True)
    await replica_store.lock_open(tx, endpoint_id)
    found = await replica_store.of_endpoint(tx, endpoint_id, failed_since=now)
    limit_at = now + timedelta(seconds=after_s)
    forced: list[Replica] = []
    for one in sorted(found, key=lambda replica: replica.id):
        if one.state is ReplicaState.DRAINING:
            deadline = limit_at if one.drain_deadline is None else min(limit_at, one.drain_deadline)
            after = replace(one, drain_deadline=deadline)
            await replica_store.save(tx, one, after)
            forced.append(after)
    told = [
        {
            "event": "drain_forced",
            "at": now.isoformat(),
            "replica": one.id,
            "version": one.version_number,
            "deadline": one.drain_deadline and one.drain_deadline.isoformat(),
            "asked_by": asked_by,
        }
        for one in forced
    ]
    await receipts.tell_of_replicas(tx, endpoint_id, told)
    return forced
