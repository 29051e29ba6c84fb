"""Which gateway hosts are waited for, whatever becomes of them, of the database and of its clock."""

from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weighbridge.routing.hosts.model import (
    GAP_MAX_S,
    HOST_LEASE_S,
    REPORT_S,
    RETURN_S,
    Host,
    HostReport,
    Watch,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def host(name: str, *, expired: bool, expires_at: datetime = NOW) -> Host:
    return Host(name, name, expires_at, expired, HostReport(5, 3, (), {}))


def looked(watch: Watch, now_s: float, *hosts: Host) -> list[str]:
    """The hosts that count, by id."""
    return [host.id for host in watch.look(hosts, now_s)]


def test_a_host_counts_until_nothing_new_was_heard_of_it_for_as_long_as_a_lease() -> None:
    watch, began_s = Watch(), 100.0
    for second in range(int(HOST_LEASE_S)):
        alive = host("alive", expired=False, expires_at=NOW + timedelta(seconds=second))
        silent = host("silent", expired=second > 3)
        assert looked(watch, began_s + second, alive, silent) == ["alive", "silent"]
    assert looked(watch, began_s + HOST_LEASE_S, alive, silent) == ["alive"]


def test_a_host_that_was_gone_is_gone_until_it_reports_again() -> None:
    watch, silent = Watch(), host("silent", expired=True)
    for second in range(int(HOST_LEASE_S) + 1):
        seen = looked(watch, 100.0 + second, silent)
    assert seen == []
    # A break changes nothing for one that has not reported since.
    assert looked(watch, 5_000.0, silent) == []
    back = host("silent", expired=False, expires_at=NOW + timedelta(seconds=1))
    assert looked(watch, 5_001.0, back) == ["silent"]


@pytest.mark.parametrize("shift_s", [-86_400.0, -20.0, -1.0, 1.0, 20.0, 86_400.0])
def test_a_database_whose_clock_is_set_takes_no_host_for_gone(shift_s: float) -> None:
    """Its lease has ended by that clock, or ends too late, until it reports again (D6)."""
    watch, expires_at = Watch(), NOW
    for second in range(60):
        at = NOW + timedelta(seconds=second + (shift_s if second > 30 else 0.0))
        if second % 3 == 0:
            expires_at = at + timedelta(seconds=HOST_LEASE_S)
        expired = not at <= expires_at <= at + timedelta(seconds=HOST_LEASE_S)
        one = host("one", expired=expired, expires_at=expires_at)
        assert looked(watch, 100.0 + second, one) == ["one"]


def test_an_outage_that_is_no_break_leaves_each_host_time_to_report() -> None:
    assert REPORT_S + GAP_MAX_S + RETURN_S < HOST_LEASE_S


@settings(max_examples=200, deadline=None)
@given(
    outages_s=st.lists(st.tuples(st.floats(0.5, 40.0), st.floats(0.1, 90.0)), max_size=6),
    jump=st.tuples(st.floats(0.0, 100.0), st.floats(-100.0, 100.0)),
    seed=st.integers(0, 2**32),
)
def test_whatever_becomes_of_the_database_a_host_that_lives_is_never_taken_for_gone(
    outages_s: list[tuple[float, float]], jump: tuple[float, float], seed: int
) -> None:
    """It reports when it can, sometimes late; the controller looks when it can, as seldom as every few seconds. The
    database's clock jumps once.
    """
    chance, down, at_s = Random(seed), [], 0.0
    for up_s, down_s in outages_s:
        down.append((at_s + up_s, at_s + up_s + down_s))
        at_s += up_s + down_s
    end_s = at_s + 60.0

    def away_until(now_s: float) -> float | None:
        return next((end for begin, end in down if begin <= now_s < end), None)

    def wall(now_s: float) -> datetime:
        at_s, by_s = jump
        return NOW + timedelta(seconds=now_s + (by_s if now_s >= at_s else 0.0))

    watch, reported_s, report_s, look_s = Watch(), 0.0, 0.0, 0.0
    while min(report_s, look_s) < end_s:
        now_s = min(report_s, look_s)
        back_s = away_until(now_s)
        if report_s <= look_s:
            if back_s is None:
                reported_s, report_s = now_s, now_s + chance.uniform(0.1, REPORT_S)
            else:
                report_s = back_s + chance.uniform(0.0, RETURN_S)
        elif back_s is None:
            expires_at = wall(reported_s) + timedelta(seconds=HOST_LEASE_S)
            one = host("one", expired=wall(now_s) > expires_at, expires_at=expires_at)
            seen = looked(watch, now_s, one)
            assert seen, f"taken for gone at {now_s:g} s, having reported at {reported_s:g} s"
            look_s = now_s + chance.choice([0.05, 0.25, 2.0, 4.9, 6.0])
        else:
            look_s = back_s + chance.uniform(0.0, 10.0)


@given(st.lists(st.floats(0.01, 60.0), min_size=1, max_size=30))
def test_who_was_away_watches_anew(pauses_s: list[float]) -> None:
    """A database that was away so long that a host could not report is a break."""
    watch, now_s, unbroken_s, silent = Watch(), 100.0, 0.0, host("silent", expired=True)
    assert looked(watch, now_s, silent) == ["silent"]
    for pause_s in pauses_s:
        now_s += pause_s
        unbroken_s = 0.0 if pause_s > GAP_MAX_S else unbroken_s + pause_s
        # At a border either answer is right.
        if min(abs(pause_s - GAP_MAX_S), abs(unbroken_s - HOST_LEASE_S)) < 1e-6:
            return
        gone = unbroken_s >= HOST_LEASE_S
        assert looked(watch, now_s, silent) == ([] if gone else ["silent"])
        if gone:
            return
