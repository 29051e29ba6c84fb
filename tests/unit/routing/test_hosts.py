"""Gateways on several hosts: who is waited for, what their reports add up to, and who may report."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from weighbridge.errors import StaleError
from weighbridge.routing.acks import GatewayView, WorkerAck, WorkerColumn, open_acks
from weighbridge.routing.hosts import store
from weighbridge.routing.hosts.identity import HostIdentity, host_identity, is_loopback, place
from weighbridge.routing.hosts.model import HOST_LEASE_S, HostReport
from weighbridge.routing.hosts.view import AllHosts
from weighbridge.settings import DataDir
from weighbridge.storage.database import Database

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ONE, TWO = HostIdentity("id-one", "one:/data"), HostIdentity("id-two", "two:/data")


def report(routes: int = 5, keys: int = 3, **in_flight: int) -> HostReport:
    by_slot = {int(slot.removeprefix("s")): count for slot, count in in_flight.items()}
    return HostReport(routes, keys, (WorkerAck(11, routes, keys),), by_slot)


class Boot:
    """Seconds since boot, as a test sets them."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_a_data_directory_is_one_host_and_a_copy_of_it_another(tmp_path: Path) -> None:
    here = DataDir(tmp_path / "here")
    assert host_identity(here) == host_identity(here)
    assert str(here.root) in host_identity(here).name
    other = DataDir(tmp_path / "other")
    assert host_identity(other).id != host_identity(here).id
    assert place() == place()


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("http://127.0.0.1:20001", True),
        ("http://127.9.9.9:20001", True),
        ("http://[::1]:20001", True),
        ("http://localhost:20001", True),
        ("http://10.0.0.5:20001", False),
        ("http://node-3.example:20001", False),
        ("http://toy/a", False),
    ],
)
def test_what_is_a_loopback_address(url: str, loopback: bool) -> None:
    assert is_loopback(url) is loopback


async def test_reports_come_back_as_they_were_sent(database: Database) -> None:
    async with database.begin() as tx:
        assert await store.enter(tx, TWO, report(4, 2, s7=3)) == 1
        assert await store.enter(tx, ONE, report()) == 1
        await store.report(tx, ONE, 1, report(9, 8, s0=1, s16383=40))
    async with database.begin() as tx:
        one, two = await store.hosts(tx)
    assert (one.id, one.name, one.expired) == ("id-one", "one:/data", False)
    assert one.report == HostReport(9, 8, (WorkerAck(11, 9, 8, "one:/data"),), {0: 1, 16383: 40})
    assert two.report.in_flight == {7: 3}


async def test_a_courier_that_another_has_followed_can_say_no_more(database: Database) -> None:
    async with database.begin() as tx:
        first = await store.enter(tx, ONE, report(1))
        second = await store.enter(tx, ONE, report(2))
    assert second == first + 1
    with pytest.raises(StaleError, match="another courier"):
        async with database.begin() as tx:
            await store.report(tx, ONE, first, report(9))
    async with database.begin() as tx:
        await store.leave(tx, ONE, first)
        (row,) = await store.hosts(tx)
        assert row.report.routes_generation == 2
        await store.leave(tx, ONE, second)
        assert await store.hosts(tx) == []


async def test_leases_end_by_the_database_s_clock_and_a_report_makes_them_good_again(
    database: Database,
) -> None:
    async with database.begin() as tx:
        epoch = await store.enter(tx, ONE, report())
    for shift in (timedelta(seconds=-HOST_LEASE_S - 1), timedelta(days=1)):
        async with database.begin() as tx:
            await tx.execute(
                text("UPDATE gateway_hosts SET expires_at = expires_at + :shift"), {"shift": shift}
            )
            (row,) = await store.hosts(tx)
            assert row.expired
            await store.report(tx, ONE, epoch, report())
            (row,) = await store.hosts(tx)
            assert not row.expired


async def test_rows_of_hosts_that_are_gone_for_a_day_go_when_another_enters(
    database: Database,
) -> None:
    async with database.begin() as tx:
        await store.enter(tx, ONE, report())
        await tx.execute(
            text("UPDATE gateway_hosts SET expires_at = expires_at - interval '25 hours'")
        )
        await store.enter(tx, TWO, report())
        assert [row.id for row in await store.hosts(tx)] == ["id-two"]


async def test_all_hosts_together_have_acked_what_the_slowest_has_and_carry_the_sum(
    database: Database, tmp_path: Path
) -> None:
    memory = open_acks(tmp_path / "acks")
    view, boot = GatewayView(memory), Boot()
    gateways = AllHosts(view, "id-own", boot, waits=True)
    async with database.begin() as tx:
        assert (await gateways.look(tx)).routes_acked() is None
        await store.enter(tx, ONE, report(9, 8, s3=2, s4=1))
        await store.enter(tx, TWO, report(7, 8, s3=5))
        # Its own report says what the shared memory says, later.
        await store.enter(tx, HostIdentity("id-own", "own"), report(1, 1, s3=100))
        seen = await gateways.look(tx)
    assert seen.routes_acked() == 7
    worker = WorkerColumn(memory, 0, os.getpid())
    worker.acknowledge(6, 6)
    worker.counts[3] = 1
    assert seen.routes_acked() == 6
    count = seen.counter()
    assert [seen.in_flight(slot) for slot in (3, 4, 5)] == [8, 1, 0]
    assert [count(slot) for slot in (3, 4, 5)] == [8, 1, 0]
    assert [ack.host for ack in seen.workers()] == ["", "one:/data", "two:/data"]
    worker.close()


async def test_after_an_outage_no_host_is_taken_for_gone_before_it_could_report(
    database: Database, tmp_path: Path
) -> None:
    boot = Boot()
    view = GatewayView(open_acks(tmp_path / "acks"))
    acting = AllHosts(view, "id-own", boot, waits=True)
    showing = AllHosts(view, "id-own", boot, waits=False)

    async def acked() -> tuple[int | None, int | None]:
        async with database.begin() as tx:
            return (await acting.look(tx)).routes_acked(), (await showing.look(tx)).routes_acked()

    async with database.begin() as tx:
        await store.enter(tx, ONE, report(4))
    assert await acked() == (4, 4)
    async with database.begin() as tx:
        await tx.execute(
            text("UPDATE gateway_hosts SET expires_at = expires_at - interval '1 hour'")
        )
    boot.now_s += 3600.0
    while boot.now_s < 4600.0 + HOST_LEASE_S - 0.6:
        assert await acked() == (4, None)
        boot.now_s += 0.5
    boot.now_s += 0.5
    assert await acked() == (None, None)
    # A break changes nothing for one that has not reported since.
    boot.now_s += 100.0
    assert await acked() == (None, None)
