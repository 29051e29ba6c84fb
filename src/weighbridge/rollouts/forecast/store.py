"""SQL of how long an endpoint's replicas took."""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, func, select

from weighbridge.replicas.model import ReplicaState
from weighbridge.rollouts.forecast.model import History
from weighbridge.storage.database import Transaction
from weighbridge.storage.tables import replicas

SAMPLES_MAX = 50
"""Of each duration, the newest replicas that count."""


async def history(tx: Transaction, endpoint_id: str) -> History:
    """How long the endpoint's replicas took, of any version; rows of ended ones are kept for a week."""
    stopped = replicas.c.state == ReplicaState.STOPPED
    return History(
        starts_s=await _spans(tx, endpoint_id, replicas.c.ready_at - replicas.c.created_at),
        routes_s=await _spans(tx, endpoint_id, replicas.c.routed_at - replicas.c.ready_at),
        drains_s=await _spans(
            tx, endpoint_id, replicas.c.state_since - replicas.c.drain_began_at, stopped
        ),
    )


async def _spans(
    tx: Transaction, endpoint_id: str, span: ColumnElement[object], *conditions: ColumnElement[bool]
) -> Sequence[float]:
    """Seconds, newest replica first, of those that have both ends."""
    seconds = func.extract("epoch", span)
    query = (
        select(seconds)
        .where(replicas.c.endpoint_id == endpoint_id, span.is_not(None), *conditions)
        .order_by(replicas.c.created_at.desc(), replicas.c.id)
        .limit(SAMPLES_MAX)
    )
    return [max(0.0, float(value)) for value in (await tx.execute(query)).scalars()]
