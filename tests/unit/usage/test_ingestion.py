"""Counting spools into the database: each event once, whatever is killed in between."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select

from weighbridge.clock import Clock
from weighbridge.errors import StaleError
from weighbridge.storage.database import Database
from weighbridge.storage.history_tables import usage_hourly, usage_requests, usage_spools
from weighbridge.usage import store
from weighbridge.usage.lines import event_line, loss_line, read_lines
from weighbridge.usage.metrics import Allowance, AskedTooOftenError
from weighbridge.usage.model import UsageEvent, VersionFigures
from weighbridge.usage.reconciler import UsageKeep, UsageReconciler
from weighbridge.usage.report import quantile_bound, report
from weighbridge.usage.spool import SpoolFile, spools_in

NOON = datetime(2026, 1, 12, 12, tzinfo=UTC)
CLOCK = Clock(now=lambda: NOON + timedelta(minutes=50))


def event(minute: int = 0, **changes: object) -> UsageEvent:
    values: dict = {
        "ended_unix_s": (NOON + timedelta(minutes=minute)).timestamp(),
        "org_id": "org_a", "key_id": "k1", "endpoint_id": "chat", "version": 2, "status": 200,
        "prompt_tokens": 10, "cached_tokens": 4, "completion_tokens": 5, "estimated": False,
        "duration_s": 1.5, "queue_s": 0.25, "ttft_s": 0.2, **changes,
    }  # fmt: skip
    return UsageEvent(**values)


def spool(directory: Path, name: str, events: Sequence[UsageEvent]) -> SpoolFile:
    file = SpoolFile(directory, name)
    file.append([event_line(one) for one in events])
    return file


async def totals(database: Database) -> tuple[int, int, int]:
    async with database.begin() as tx:
        row = (
            await tx.execute(
                select(
                    func.coalesce(func.sum(usage_hourly.c.requests), 0),
                    func.coalesce(func.sum(usage_hourly.c.completion_tokens), 0),
                )
            )
        ).one()
        single = (await tx.execute(select(func.count()).select_from(usage_requests))).scalar_one()
    return int(row[0]), int(row[1]), single


def reconciler(database: Database, tmp_path: Path, **keep: float) -> UsageReconciler:
    return UsageReconciler(database, CLOCK, tmp_path, UsageKeep(**keep))


async def test_a_spool_is_counted_as_it_grows_and_goes_when_its_worker_has(
    database: Database, tmp_path: Path
) -> None:
    counting = reconciler(database, tmp_path)
    file = spool(tmp_path, "a", [event(0), event(1)])
    await counting.reconcile()
    await counting.reconcile()
    assert await totals(database) == (2, 10, 2)
    file.append([event_line(event(2))])
    await counting.reconcile()
    assert await totals(database) == (3, 15, 3)
    assert spools_in(tmp_path)
    file.close()
    await counting.reconcile()
    assert not spools_in(tmp_path)
    assert await totals(database) == (3, 15, 3)
    async with database.begin() as tx:
        assert (await tx.execute(select(usage_spools))).all() == []


async def test_rows_add_up_in_sums_and_buckets(database: Database, tmp_path: Path) -> None:
    events = [event(0), event(1, ttft_s=0.04), event(2, ttft_s=None, status=503, version=0)]
    spool(tmp_path, "a", events).close()
    spool(tmp_path, "b", [event(3, ttft_s=99.0, estimated=True)]).close()
    await reconciler(database, tmp_path).reconcile()
    async with database.begin() as tx:
        rows = (await tx.execute(select(usage_hourly).order_by(usage_hourly.c.status))).all()
    good, failed = rows
    assert (good.hour, good.requests, good.estimated, good.ttft_count) == (NOON, 3, 1, 3)
    assert list(good.ttft_buckets) == [1, 0, 1, 0, 0, 0, 0, 0, 0, 1]
    assert (good.duration_s, good.queue_s) == (4.5, 0.75)
    assert (failed.status, failed.version, failed.requests, failed.ttft_count) == (503, 0, 1, 0)


async def test_two_that_count_at_once_count_nothing_twice(
    database: Database, tmp_path: Path
) -> None:
    file = spool(tmp_path, "a", [event(n % 60) for n in range(500)])
    both = [reconciler(database, tmp_path) for _ in range(2)]
    for _ in range(5):
        await asyncio.gather(*(one.reconcile() for one in both), return_exceptions=True)
        file.append([event_line(event(0))])
    for one in both:
        await one.reconcile()
    assert await totals(database) == (505, 2525, 505)
    file.close()


async def test_a_pass_that_dies_before_its_commit_is_made_again_one_after_it_is_not(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = spool(tmp_path, "a", [event(0)])
    counting = reconciler(database, tmp_path)
    add_requests = store.add_requests

    async def die(*_: object) -> None:
        raise ConnectionError("killed")

    monkeypatch.setattr(store, "add_requests", die)
    with pytest.raises(ConnectionError):
        await counting.reconcile()
    assert await totals(database) == (0, 0, 0)
    monkeypatch.setattr(store, "add_requests", add_requests)
    file.close()
    monkeypatch.setattr(Path, "unlink", lambda _: (_ for _ in ()).throw(ConnectionError("killed")))
    with pytest.raises(ConnectionError):
        await counting.reconcile()
    assert await totals(database) == (1, 5, 1)
    monkeypatch.undo()
    await reconciler(database, tmp_path).reconcile()
    assert await totals(database) == (1, 5, 1)
    assert not spools_in(tmp_path)


async def test_an_offset_that_has_moved_is_stale(database: Database) -> None:
    async with database.begin() as tx:
        assert await store.open_spool(tx, "a", NOON) == 0
        await store.advance(tx, "a", seen_bytes=0, offset_bytes=10, now=NOON)
    for seen_bytes in (0, 5):
        with pytest.raises(StaleError):
            async with database.begin() as tx:
                await store.advance(tx, "a", seen_bytes=seen_bytes, offset_bytes=20, now=NOON)


async def test_who_has_read_a_spool_that_another_counted_to_its_end_counts_nothing(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a process that was frozen between its reading and its writing."""
    spool(tmp_path, "a", [event(0)]).close()
    frozen, other = reconciler(database, tmp_path), reconciler(database, tmp_path)
    add = frozen._add

    async def add_late(*batch: object) -> None:
        await other.reconcile()
        await add(*batch)

    monkeypatch.setattr(frozen, "_add", add_late)
    with pytest.raises(StaleError):
        await frozen.reconcile()
    assert await totals(database) == (1, 5, 1)


async def test_torn_and_spoiled_lines_and_losses_are_counted_as_lost(
    database: Database, tmp_path: Path
) -> None:
    file = spool(tmp_path, "a", [event(0)])
    file.append([b"rubbish\n", loss_line(3), event_line(event(1)), event_line(event(2))[:-9]])
    counting = reconciler(database, tmp_path)
    await counting.reconcile()
    assert (await totals(database))[0] == 2
    file.close()
    await counting.reconcile()
    assert not spools_in(tmp_path)
    async with database.begin() as tx:
        assert await store.lost(tx) == 4


@pytest.mark.parametrize(
    "claim",
    [
        {"completion_tokens": 10**30}, {"prompt_tokens": -1}, {"version": 2**31}, {"status": -5},
        {"duration_s": 1e300}, {"ttft_s": -0.5},
    ],
    ids=str,
)  # fmt: skip
async def test_a_line_that_no_sum_could_take_is_lost_and_holds_up_no_other(
    database: Database, tmp_path: Path, claim: dict[str, float]
) -> None:
    spool(tmp_path, "a", [event(0), event(1, **claim), event(2)])
    await reconciler(database, tmp_path).reconcile()
    assert await totals(database) == (2, 10, 2)
    async with database.begin() as tx:
        assert await store.lost(tx) == 1


async def test_endless_rubbish_is_passed_over(database: Database, tmp_path: Path) -> None:
    file = SpoolFile(tmp_path, "a")
    file.append([b"x" * (3 * 512 * 1024) + b"\n", event_line(event(0))])
    file.close()
    await reconciler(database, tmp_path).reconcile()
    assert (await totals(database))[0] == 1


async def test_old_rows_go(database: Database, tmp_path: Path) -> None:
    spool(tmp_path, "a", [event(-60 * 24 * 500), event(-60 * 5), event(30)]).close()
    await reconciler(database, tmp_path).reconcile()
    assert await totals(database) == (2, 10, 1)
    spool(tmp_path, "b", [event(31)]).close()
    await reconciler(database, tmp_path, requests_s=0).reconcile()
    assert await totals(database) == (3, 15, 0)


async def test_reports_group_by_what_is_asked(database: Database, tmp_path: Path) -> None:
    events = [
        event(0), event(1, key_id="k2"), event(60, version=3), event(24 * 60, status=429, version=0),
        event(2, org_id="org_b"),
    ]  # fmt: skip
    spool(tmp_path, "a", events).close()
    await reconciler(database, tmp_path).reconcile()
    begin, end = NOON, NOON + timedelta(days=2)

    async def rows(org_id: str | None, period, *groups):
        async with database.begin() as tx:
            found = await report(
                tx, org_id=org_id, begin=begin, end=end, period=period, groups=groups
            )
        return [
            (row.start, row.org_name, row.key_id, row.version, row.requests, row.refused)
            for row in found
        ]

    day = NOON.replace(hour=0)
    assert await rows("org_a", "day") == [
        (day, None, None, None, 3, 0), (day + timedelta(days=1), None, None, None, 1, 1)
    ]  # fmt: skip
    assert await rows("org_a", "total", "key") == [
        (None, None, "k1", None, 3, 1), (None, None, "k2", None, 1, 0)
    ]  # fmt: skip
    assert await rows("org_a", "hour", "version") == [
        (NOON, None, None, 2, 2, 0), (NOON + timedelta(hours=1), None, None, 3, 1, 0),
        (NOON + timedelta(days=1), None, None, 0, 1, 1),
    ]  # fmt: skip
    assert await rows(None, "total", "org") == [
        (None, "org_a", None, None, 4, 1), (None, "org_b", None, None, 1, 0)
    ]  # fmt: skip
    assert await rows("org_none", "total") == []


def test_a_quantile_is_the_bound_of_its_bucket() -> None:
    assert quantile_bound([0] * 10, 0.95) is None
    assert quantile_bound([95, 5] + [0] * 8, 0.95) == 0.05
    assert quantile_bound([94, 6] + [0] * 8, 0.95) == 0.1
    assert quantile_bound([0] * 9 + [1], 0.95) is None


def test_metrics_are_given_six_times_a_minute() -> None:
    allowance = Allowance()
    for _ in range(6):
        allowance.take("org_a", 0.0)
    with pytest.raises(AskedTooOftenError):
        allowance.take("org_a", 5.0)
    allowance.take("org_b", 5.0)
    allowance.take("org_a", 10.0)


def test_a_batch_ends_at_its_last_whole_line() -> None:
    line = event_line(event())
    assert read_lines(line + line[:-1]).size_bytes == len(line)


async def test_a_request_that_another_version_answered_in_the_end_is_an_error_of_the_one_that_failed_it(
    database: Database,
) -> None:
    """Or a canary that fails everything would look well while its base answers in its place."""
    async with database.begin() as tx:
        await store.add_requests(
            tx,
            [
                event(1, version=8),
                event(2, version=7, failed_version=8),
                event(3, version=8, failed_version=8),
                event(4, version=8, failed_version=8, status=503, completion_tokens=0, ttft_s=None),
                event(5, version=8, status=503, cut=True),
            ],
        )
        seen = await store.version_figures(tx, "chat", {7: NOON, 8: NOON}, rows_max=100)
    assert (seen[7].requests, seen[7].answered, seen[7].errors) == (1, 1, 0)
    assert (seen[8].requests, seen[8].answered, seen[8].errors) == (5, 2, 3)


async def test_figures_of_versions_are_of_one_endpoint_since_a_time_and_bounded(
    database: Database,
) -> None:
    async with database.begin() as tx:
        await store.add_requests(
            tx,
            [
                event(0, version=7, status=503, completion_tokens=0, ttft_s=None),
                # Each waited a quarter of a second in line and ten more while it was held.
                *(
                    event(n, version=8, ttft_s=10.25 + n / 10, asked_s=10.25, held_s=10.0)
                    for n in range(1, 21)
                ),
                event(21, version=8, completion_tokens=0, ttft_s=None),
                event(22, version=8, status=503, completion_tokens=0, ttft_s=None),
                event(22, version=8, endpoint_id="other"),
                event(22, version=9),
            ],
        )
        since = {7: NOON, 8: NOON + timedelta(minutes=2)}
        seen = await store.version_figures(tx, "chat", since, rows_max=100)
        assert seen[7] == VersionFigures(requests=1, errors=1)
        assert seen[8] == VersionFigures(21, 20, 1, 1, 19, pytest.approx(2.0))
        few = await store.version_figures(tx, "chat", since, rows_max=5)
        assert few[8].requests == 5
        assert set(seen) == {7, 8}
