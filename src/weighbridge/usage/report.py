"""What was used, in rows by time and by what the caller groups by."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import Select, func, literal, select
from sqlalchemy.dialects.postgresql import array

from weighbridge.storage.database import Transaction
from weighbridge.storage.history_tables import usage_hourly
from weighbridge.storage.tables import orgs
from weighbridge.usage.model import TTFT_BOUNDS_S

Period = Literal["hour", "day", "total"]
Group = Literal["org", "key", "endpoint", "version"]
GROUPS: tuple[Group, ...] = ("org", "key", "endpoint", "version")
ROWS_MAX = 10_000
_QUANTILE = 0.95


@dataclass(frozen=True, slots=True)
class UsageRow:
    """`start` is the begin of the hour or day (UTC), None in a total; members not grouped by are None.

    `refused` are answers 4xx (499: the caller left), `failed` 5xx. `ttft_p95_s` is the upper bound of the
    histogram's bucket it falls into, None where there is none.
    """

    start: datetime | None
    org_name: str | None
    key_id: str | None
    endpoint_id: str | None
    version: int | None
    requests: int
    succeeded: int
    refused: int
    failed: int
    estimated: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    duration_s: float
    queue_s: float
    ttft_avg_s: float | None
    ttft_p95_s: float | None


async def report(
    tx: Transaction,
    *,
    org_id: str | None,
    begin: datetime,
    end: datetime,
    period: Period,
    groups: Iterable[Group],
) -> Sequence[UsageRow]:
    """Hours that begin in [begin, end), of one org or all; at most ROWS_MAX + 1 rows, so a caller sees the excess."""
    rows = await tx.execute(_query(org_id, begin, end, period, frozenset(groups)))
    return [
        UsageRow(
            start=row.start,
            org_name=row.org_name,
            key_id=row.key_id,
            endpoint_id=row.endpoint_id,
            version=row.version,
            requests=int(row.requests),
            succeeded=int(row.succeeded or 0),
            refused=int(row.refused or 0),
            failed=int(row.failed or 0),
            estimated=int(row.estimated),
            prompt_tokens=int(row.prompt_tokens),
            cached_tokens=int(row.cached_tokens),
            completion_tokens=int(row.completion_tokens),
            duration_s=row.duration_s,
            queue_s=row.queue_s,
            ttft_avg_s=row.ttft_s / int(row.ttft_count) if row.ttft_count else None,
            ttft_p95_s=quantile_bound([int(n) for n in row.buckets], _QUANTILE),
        )
        for row in rows
    ]


def quantile_bound(buckets: Sequence[int], quantile: float) -> float | None:
    """The upper bound of the bucket that holds the quantile; None for no values, or beyond the last bound."""
    wanted, seen = quantile * sum(buckets), 0
    for count, bound in zip(buckets, TTFT_BOUNDS_S, strict=False):
        seen += count
        if seen and seen >= wanted:
            return bound
    return None


def _query(
    org_id: str | None, begin: datetime, end: datetime, period: Period, groups: frozenset[Group]
) -> Select[tuple[object, ...]]:
    row = usage_hourly.c
    start = (
        literal(None)
        if period == "total"
        else func.timezone("UTC", func.date_trunc(period, func.timezone("UTC", row.hour)))
    )
    wanted = {
        "org": func.coalesce(orgs.c.name, row.org_id),
        "key": row.key_id,
        "endpoint": row.endpoint_id,
        "version": row.version,
    }
    names = {"org": "org_name", "key": "key_id", "endpoint": "endpoint_id", "version": "version"}
    shown = [
        (wanted[group] if group in groups else literal(None)).label(names[group])
        for group in GROUPS
    ]
    grouped = [wanted[group] for group in GROUPS if group in groups]
    if period != "total":
        grouped.insert(0, start)
    succeeded, failed = row.status < 400, row.status >= 500
    query = (
        select(
            start.label("start"),
            *shown,
            func.sum(row.requests).label("requests"),
            func.sum(row.requests).filter(succeeded).label("succeeded"),
            func.sum(row.requests).filter(~succeeded, ~failed).label("refused"),
            func.sum(row.requests).filter(failed).label("failed"),
            *(
                func.sum(row[name]).label(name)
                for name in (
                    "estimated",
                    "prompt_tokens",
                    "cached_tokens",
                    "completion_tokens",
                    "duration_s",
                    "queue_s",
                    "ttft_count",
                    "ttft_s",
                )
            ),
            array([func.sum(row.ttft_buckets[n]) for n in range(1, len(TTFT_BOUNDS_S) + 2)]).label(
                "buckets"
            ),
        )
        .select_from(usage_hourly.outerjoin(orgs, orgs.c.id == row.org_id))
        .where(row.hour >= begin, row.hour < end)
        .group_by(*grouped)
        .order_by(*grouped)
        .limit(ROWS_MAX + 1)
    )
    if not grouped:
        # Without a group there is one row even where nothing was used.
        query = query.having(func.count() > 0)
    return query if org_id is None else query.where(row.org_id == org_id)
