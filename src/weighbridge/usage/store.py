"""SQL of usage: counting a batch of a spool once, and what is no longer kept."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime

from sqlalchemy import delete, select, text, update
from sqlalchemy.dialects.postgresql import array, insert

from weighbridge.errors import StaleError
from weighbridge.storage.database import Transaction
from weighbridge.storage.history_tables import usage_hourly, usage_requests, usage_spools
from weighbridge.storage.tables import counters
from weighbridge.usage.model import (
    TTFT_BOUNDS_S,
    UsageEvent,
    UsageKey,
    UsageSums,
    VersionFigures,
)

LOST_COUNTER = "usage_lost"
_ADDED = (
    "requests",
    "estimated",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "duration_s",
    "queue_s",
    "ttft_count",
    "ttft_s",
)

_FIGURES = text(
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


async def open_spool(tx: Transaction, name: str, now: datetime) -> int:
    """How many bytes of a spool are counted; call it before the spool is read.

    It makes the row that `advance` moves. So whoever has read a spool that another has since counted to its
    end and forgotten finds no row, and counts nothing twice.
    """
    await tx.execute(
        insert(usage_spools)
        .values(name=name, offset_bytes=0, batches=0, updated_at=now)
        .on_conflict_do_nothing(index_elements=["name"])
    )
    query = select(usage_spools.c.offset_bytes).where(usage_spools.c.name == name)
    return int((await tx.execute(query)).scalar_one())


async def advance(
    tx: Transaction, name: str, *, seen_bytes: int, offset_bytes: int, now: datetime
) -> None:
    """Mark a spool as counted up to `offset_bytes`; StaleError when somebody else has moved it since."""
    row = usage_spools.c
    statement = (
        update(usage_spools)
        .where(row.name == name, row.offset_bytes == seen_bytes)
        .values(offset_bytes=offset_bytes, updated_at=now, batches=row.batches + 1)
        .returning(row.name)
    )
    moved = (await tx.execute(statement)).one_or_none()
    if moved is None:
        raise StaleError(f"usage spool {name} is no longer at byte {seen_bytes}")


async def forget_spool(tx: Transaction, name: str) -> None:
    await tx.execute(delete(usage_spools).where(usage_spools.c.name == name))


async def add_sums(tx: Transaction, sums: Mapping[UsageKey, UsageSums]) -> None:
    """In key order, so that two writers never wait for each other in a circle."""
    if not sums:
        return
    statement = insert(usage_hourly)
    old, new = usage_hourly.c, statement.excluded
    buckets = array(
        [
            old.ttft_buckets[number] + new.ttft_buckets[number]
            for number in range(1, len(TTFT_BOUNDS_S) + 2)
        ]
    )
    statement = statement.on_conflict_do_update(
        index_elements=["hour", "org_id", "key_id", "endpoint_id", "version", "status"],
        set_={**{name: old[name] + new[name] for name in _ADDED}, "ttft_buckets": buckets},
    )
    rows = [
        {
            "hour": key.hour,
            "org_id": key.org_id,
            "key_id": key.key_id,
            "endpoint_id": key.endpoint_id,
            "version": key.version,
            "status": key.status,
            **asdict(sums[key]),
        }
        for key in sorted(sums)
    ]
    await tx.execute(statement, rows)


async def add_requests(tx: Transaction, events: Sequence[UsageEvent]) -> None:
    if not events:
        return
    await tx.execute(
        # Without asking for the id back, which needs the right to read what others have used.
        insert(usage_requests).inline(),
        [
            {
                "ended_at": datetime.fromtimestamp(event.ended_unix_s, UTC),
                "org_id": event.org_id,
                "key_id": event.key_id,
                "endpoint_id": event.endpoint_id,
                "version": event.version,
                "status": event.status,
                "prompt_tokens": event.prompt_tokens,
                "cached_tokens": event.cached_tokens,
                "completion_tokens": event.completion_tokens,
                "duration_s": event.duration_s,
                "queue_s": event.queue_s,
                "held_s": event.held_s,
                "ttft_s": event.ttft_s,
                "failed_version": event.failed_version,
                "asked_s": event.asked_s,
                "cut": event.cut,
            }
            for event in events
        ],
    )


async def version_figures(
    tx: Transaction, endpoint_id: str, since: Mapping[int, datetime], *, rows_max: int
) -> Mapping[int, VersionFigures]:
    """Per version the figures of its requests since a time, of the newest `rows_max` at most; one query.

    A request that another version answered after this one had failed it counts as a request and an error here.
    """
    values = {
        "endpoint": endpoint_id,
        "versions": list(since),
        "starts": list(since.values()),
        "rows_max": rows_max,
    }
    rows = await tx.execute(_FIGURES, values)
    return {number: VersionFigures(*figures) for number, *figures in rows}


async def add_lost(tx: Transaction, lost: int) -> None:
    statement = insert(counters).values(name=LOST_COUNTER, value=lost)
    await tx.execute(
        statement.on_conflict_do_update(
            index_elements=["name"], set_={"value": counters.c.value + statement.excluded.value}
        )
    )


async def lost(tx: Transaction) -> int:
    """Events that were never counted, since the installation began."""
    query = select(counters.c.value).where(counters.c.name == LOST_COUNTER)
    return (await tx.execute(query)).scalar_one_or_none() or 0


async def delete_before(
    tx: Transaction, *, requests: datetime, hours: datetime, rows_max: int
) -> int:
    """Delete the oldest rows that are older than is kept, not more than `rows_max`; returns how many requests."""
    old = (
        select(usage_requests.c.id)
        .where(usage_requests.c.ended_at < requests)
        .order_by(usage_requests.c.ended_at)
        .limit(rows_max)
    )
    await tx.execute(delete(usage_hourly).where(usage_hourly.c.hour < hours))
    gone = delete(usage_requests).where(usage_requests.c.id.in_(old))
    return (await tx.execute(gone)).rowcount
