"""What the text() statements over counted requests do (usage/store.py, receipts/store.py)."""

from collections import defaultdict
from math import ceil

from simulation.memory.statements import Answer
from simulation.memory.store import Transaction
from simulation.memory.tables import Row
from simulation.memory.texts.known import Parameters, number, says


@says(
    """
    SELECT w.version,
           count(*) AS requests,
           count(*) FILTER (WHERE r.own AND r.status = 200) AS answered,
           count(*) FILTER (WHERE r.failed OR r.own AND r.status >= 500 AND NOT r.cut) AS errors,
           count(*) FILTER (WHERE r.own AND r.status = 200 AND r.completion_tokens = 0) AS empty,
           count(r.ttft_s) FILTER (WHERE r.own) AS ttft_count,
           coalesce(percentile_disc(0.95) WITHIN GROUP (ORDER BY r.ttft_s)
                    FILTER (WHERE r.own), 0) AS ttft_p95_s
    FROM unnest(CAST(:versions AS integer[]), CAST(:starts AS timestamptz[])) AS w (version, since)
    CROSS JOIN LATERAL (
        SELECT * FROM (
            (SELECT u.status, u.completion_tokens, u.ttft_s - u.asked_s AS ttft_s, u.ended_at, u.cut,
                    true AS own, u.failed_version = w.version AS failed
             FROM usage_requests u
             WHERE u.endpoint_id = :endpoint AND u.version = w.version AND u.ended_at >= w.since
             ORDER BY u.ended_at DESC
             LIMIT :rows_max)
            UNION ALL
            (SELECT u.status, u.completion_tokens, u.ttft_s - u.asked_s AS ttft_s, u.ended_at, u.cut,
                    false AS own, true AS failed
             FROM usage_requests u
             WHERE u.endpoint_id = :endpoint AND u.failed_version = w.version
               AND u.failed_version <> 0 AND u.version <> w.version AND u.ended_at >= w.since
             ORDER BY u.ended_at DESC
             LIMIT :rows_max)
        ) s
        ORDER BY s.ended_at DESC
        LIMIT :rows_max
    ) r
    GROUP BY w.version
    ORDER BY w.version
    """
)
def version_figures(tx: Transaction, p: Parameters) -> Answer:
    versions, starts = p["versions"], p["starts"]
    assert isinstance(versions, list)
    assert isinstance(starts, list)
    mine = [r for r in tx.view("usage_requests").values() if r["endpoint_id"] == p["endpoint"]]
    found: list[tuple[object, ...]] = []
    for version, since in sorted(zip(versions, starts, strict=True)):
        spoken = [r for r in mine if version in (r["version"], r["failed_version"])]
        rows = [r for r in spoken if r["ended_at"] >= since]
        rows.sort(key=lambda r: r["ended_at"], reverse=True)  # type: ignore[arg-type,return-value]  # times
        rows = rows[: number(p["rows_max"])]
        if rows:
            found.append((version, *_figures(version, rows)))
    names = ("version", "requests", "answered", "errors", "empty", "ttft_count", "ttft_p95_s")
    return Answer(names, found, len(found))


def _figures(version: object, rows: list[Row]) -> tuple[object, ...]:
    own = [r for r in rows if r["version"] == version]
    answered = [r for r in own if r["status"] == 200]
    failed = [
        r for r in rows if r["failed_version"] == version or (r["version"] == version and _error(r))
    ]
    times_s = sorted(
        _seconds(r["ttft_s"]) - _seconds(r["asked_s"]) for r in own if r["ttft_s"] is not None
    )
    return (
        len(rows),
        len(answered),
        len(failed),
        sum(r["completion_tokens"] == 0 for r in answered),
        len(times_s),
        times_s[max(1, ceil(0.95 * len(times_s))) - 1] if times_s else 0.0,
    )


def _error(row: Row) -> bool:
    return number(row["status"]) >= 500 and not row["cut"]


def _seconds(value: object) -> float:
    assert isinstance(value, float)
    return value


@says(
    """
    SELECT version, count(*) AS requests, count(*) FILTER (WHERE status >= 500) AS failed
    FROM usage_requests
    WHERE endpoint_id = :endpoint AND ended_at >= :begin AND ended_at <= :end
    GROUP BY version
    ORDER BY version
    """
)
def requests_by_version(tx: Transaction, p: Parameters) -> Answer:
    statuses: defaultdict[int, list[int]] = defaultdict(list)
    for r in tx.view("usage_requests").values():
        if r["endpoint_id"] == p["endpoint"] and p["begin"] <= r["ended_at"] <= p["end"]:  # type: ignore[operator]  # times
            statuses[number(r["version"])].append(number(r["status"]))
    found: list[tuple[object, ...]] = [
        (version, len(ends), sum(status >= 500 for status in ends))
        for version, ends in sorted(statuses.items())
    ]
    return Answer(("version", "requests", "failed"), found, len(found))
