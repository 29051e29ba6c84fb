"""The metrics of an org's endpoints over the last complete minute, as the hosted service offers them (wire.md §4.3)."""

from datetime import UTC, datetime, timedelta

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse

from weighbridge.accounts import service as accounts
from weighbridge.api.access import BEARER, InferenceRoute
from weighbridge.api.deps import Control, Inference
from weighbridge.usage.metrics import endpoint_minutes, metrics_text

SETTLE_S = 5
"""A minute counts as complete this long after its end: by then its requests are in the database."""

router = APIRouter(
    prefix="/api/v1/metrics", tags=["usage"], route_class=InferenceRoute, dependencies=[BEARER]
)


@router.get(
    "/organizations/{organization_id}",
    operation_id="get_metrics",
    response_class=PlainTextResponse,
)
async def metrics(organization_id: str, caller: Inference, control: Control) -> PlainTextResponse:
    """Retrieve figures of the last complete minute in Prometheus' text format, at most 6 times a minute."""
    if organization_id != caller.org.id:
        raise accounts.org_not_found(organization_id)
    control.metrics_asked.take(organization_id, control.clock.monotonic())
    end = _minute(control.clock.now() - timedelta(seconds=SETTLE_S))
    async with control.database.begin() as tx:
        found = await endpoint_minutes(tx, caller.org.id, begin=end - timedelta(minutes=1), end=end)
    return PlainTextResponse(metrics_text(found, caller.org.id))


def _minute(time: datetime) -> datetime:
    return time.astimezone(UTC).replace(second=0, microsecond=0)
