"""Routes that report usage: an org's own, and everybody's for the operator; as JSON or CSV."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal, Self

from fastapi import APIRouter, Query, Response
from pydantic import Field

from weighbridge.api.access import BEARER, ManagementRoute
from weighbridge.api.admin.router import admin_router
from weighbridge.api.answers import Answer, unix_s
from weighbridge.api.deps import Control, Management
from weighbridge.errors import InvalidError
from weighbridge.usage import store
from weighbridge.usage.model import hour_of
from weighbridge.usage.report import GROUPS, ROWS_MAX, Group, Period, UsageRow, report

SPAN_S = 7 * 86400
"""What is reported when the caller does not say from when."""
UNIX_S_MAX = 4_000_000_000

management = APIRouter(
    prefix="/management/v1", tags=["usage"], route_class=ManagementRoute, dependencies=[BEARER]
)
admin = admin_router()

From = Annotated[
    int | None,
    Query(alias="from", ge=0, le=UNIX_S_MAX, description="Unix seconds; else 7 days before `to`."),
]
To = Annotated[
    int | None,
    Query(alias="to", ge=0, le=UNIX_S_MAX, description="Unix seconds, not included; else now."),
]
By = Annotated[Period, Query(description="One row per hour or day (UTC), or one in total.")]
Grouped = Annotated[
    str, Query(max_length=100, description="Of key, endpoint, version (admin: org too); by comma.")
]
Format = Annotated[Literal["json", "csv"], Query(alias="format")]


class UsageItem(Answer):
    """Members that are not grouped by are left out or null. Durations are sums over the requests."""

    start: int | None = Field(
        description="Begin of the hour or day, unix seconds; none in a total."
    )
    org_name: str | None
    key_id: str | None
    endpoint_id: str | None
    version: int | None = Field(description="0 where no replica answered.")
    requests: int
    succeeded: int
    refused: int = Field(description="Answers 4xx; 499 is counted for a caller who left.")
    failed: int = Field(description="Answers 5xx.")
    estimated: int = Field(
        description="Requests whose answer broke off; their tokens are estimates."
    )
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    duration_s: float
    queue_s: float
    ttft_avg_s: float | None
    ttft_p95_s: float | None = Field(description="At most this: the bound of a histogram's bucket.")

    @classmethod
    def of(cls, row: UsageRow) -> Self:
        values = asdict(row)
        return cls(**{**values, "start": None if row.start is None else unix_s(row.start)})


class UsageReport(Answer):
    begin: int = Field(serialization_alias="from")
    end: int = Field(serialization_alias="to")
    by: Period
    group: list[Group]
    rows: list[UsageItem]


class AdminUsageReport(UsageReport):
    lost_events: int = Field(description="Requests that were never counted, since the beginning.")


@management.get("/usage", operation_id="get_usage", response_model=UsageReport)
async def own_usage(
    caller: Management,
    control: Control,
    *,
    begin_s: From = None,
    end_s: To = None,
    by: By = "day",
    group: Grouped = "",
    form: Format = "json",
) -> UsageReport | Response:
    """Report the requests and tokens of the organization's keys."""
    begin, end = _span(begin_s, end_s, control.clock.now())
    groups = _groups(group, frozenset(GROUPS) - {"org"})
    async with control.database.begin() as tx:
        rows = await report(
            tx, org_id=caller.org.id, begin=begin, end=end, period=by, groups=groups
        )
    _check_size(rows)
    if form == "csv":
        return _csv(rows)
    return UsageReport(
        begin=unix_s(begin),
        end=unix_s(end),
        by=by,
        group=groups,
        rows=[UsageItem.of(row) for row in rows],
    )


@admin.get("/usage", operation_id="get_all_usage", response_model=AdminUsageReport)
async def all_usage(
    control: Control,
    *,
    begin_s: From = None,
    end_s: To = None,
    by: By = "day",
    group: Grouped = "org",
    form: Format = "json",
) -> AdminUsageReport | Response:
    """Report the requests and tokens of all organizations."""
    begin, end = _span(begin_s, end_s, control.clock.now())
    groups = _groups(group, frozenset(GROUPS))
    async with control.database.begin() as tx:
        rows = await report(tx, org_id=None, begin=begin, end=end, period=by, groups=groups)
        lost = await store.lost(tx)
    _check_size(rows)
    if form == "csv":
        return _csv(rows)
    return AdminUsageReport(
        begin=unix_s(begin),
        end=unix_s(end),
        by=by,
        group=groups,
        rows=[UsageItem.of(row) for row in rows],
        lost_events=lost,
    )


def _span(begin_s: int | None, end_s: int | None, now: datetime) -> tuple[datetime, datetime]:
    """Usage is kept by the hour, so the first hour is counted whole."""
    end = now if end_s is None else datetime.fromtimestamp(end_s, UTC)
    begin = end - timedelta(seconds=SPAN_S)
    if begin_s is not None:
        begin = datetime.fromtimestamp(begin_s, UTC)
    if begin > end:
        raise InvalidError("from is later than to.", code="invalid_span", param="from")
    return hour_of(begin.timestamp()), end


def _groups(text: str, allowed: frozenset[Group]) -> list[Group]:
    named = [name.strip() for name in text.split(",") if name.strip()]
    if not set(named) <= allowed:
        raise InvalidError(
            f"group takes {', '.join(sorted(allowed))}, separated by commas.",
            code="invalid_group",
            param="group",
        )
    return [group for group in GROUPS if group in named]


def _check_size(rows: Sequence[UsageRow]) -> None:
    if len(rows) > ROWS_MAX:
        raise InvalidError(
            f"There are more than {ROWS_MAX} rows; ask for a shorter span or fewer groups.",
            code="report_too_long",
            param="from",
        )


def _csv(rows: Sequence[UsageRow]) -> Response:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(UsageRow.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        start = None if row.start is None else row.start.strftime("%Y-%m-%dT%H:%M:%SZ")
        writer.writerow({**asdict(row), "start": start})
    return Response(
        text.getvalue(),
        media_type="text/csv; charset=utf-8",
        headers={"content-disposition": 'attachment; filename="usage.csv"'},
    )
