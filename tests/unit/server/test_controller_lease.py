"""The controller's lease on the real database: a new holder tells stored times by its own clock (D6)."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import insert, select, text, update

from toys.rows import furnish
from weighbridge.clock import Clock
from weighbridge.control.announce import CHANNEL, SharedWake
from weighbridge.control.wake import Wake
from weighbridge.errors import StaleError
from weighbridge.server.roles.leading import (
    CONTROLLER_RENEW_S,
    CONTROLLER_TTL_S,
    LATE_S,
    LEASE_LOOP,
    ControllerLease,
    hand_over,
)
from weighbridge.storage.database import Database
from weighbridge.storage.tables import deployments, replicas

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
BOOT = Clock(now=lambda: NOON, boot_s=lambda: 1_000.0, boot_id=lambda: "first")
LATER = replace(BOOT, now=lambda: NOON + timedelta(seconds=25), boot_s=lambda: 1_025.0)
"""The same machine after 25 s."""
REPLICA_TIMES = ("created_at", "state_since", "ready_at", "routed_at", "drain_deadline")


async def _under_way(database: Database) -> None:
    """A rollout that began at noon, with a ready replica that has been in doubt once."""
    async with database.begin() as tx:
        await furnish(tx)
        named = {"endpoint_id": "chat", "version_id": "v1", "version_number": 1, "digest": "d"}
        await tx.execute(
            insert(deployments).values(
                id="d1",
                sequence=1,
                org_id="org_1",
                arch_id="tiny",
                fingerprint="f",
                reference="1",
                status="in_progress",
                replicas=2,
                max_unavailable=0,
                max_surge=1,
                created_at=NOON,
                updated_at=NOON,
                started_at=NOON,
                progress_at=NOON,
                **named,
            )
        )
        await tx.execute(
            insert(replicas).values(
                id="r1",
                deployment_id="d1",
                fingerprint="f",
                state="ready",
                slot=0,
                flips=[NOON],
                **dict.fromkeys(REPLICA_TIMES, NOON),
                **named,
            )
        )


async def _times(database: Database) -> set[datetime]:
    async with database.begin() as tx:
        rollout = (await tx.execute(select(deployments))).one()
        replica = (await tx.execute(select(replicas))).one()
    assert rollout.promoted_at is None
    assert replica.drain_began_at is None
    stamps = {getattr(replica, name) for name in REPLICA_TIMES}
    return {rollout.started_at, rollout.progress_at, *replica.flips, *stamps}


@pytest.mark.parametrize("jump", [DAY, -DAY, timedelta(seconds=30)])
async def test_after_a_jump_of_the_wall_clock_as_much_time_has_passed_as_really_has(
    database: Database, jump: timedelta
) -> None:
    await _under_way(database)
    await ControllerLease(database, "a", BOOT).keep()
    jumped = replace(LATER, now=lambda: LATER.now() + jump)
    again = ControllerLease(database, "a", jumped)
    await again.keep()
    assert await _times(database) == {jumped.now() - timedelta(seconds=25)}
    await again.keep()
    await ControllerLease(database, "a", jumped).keep()
    assert await _times(database) == {NOON + jump}


async def test_a_restart_without_a_jump_moves_no_time(database: Database) -> None:
    await _under_way(database)
    await ControllerLease(database, "a", BOOT).keep()
    await ControllerLease(database, "a", LATER).keep()
    assert await _times(database) == {NOON}


async def test_while_the_machine_was_off_no_time_passed(database: Database) -> None:
    """Nobody knows for how long (B0.5)."""
    await _under_way(database)
    await ControllerLease(database, "a", BOOT).keep()
    rebooted = Clock(now=lambda: NOON + DAY, boot_s=lambda: 20.0, boot_id=lambda: "second")
    await ControllerLease(database, "a", rebooted).keep()
    assert await _times(database) == {NOON + DAY}


async def test_what_has_ended_keeps_its_times(database: Database) -> None:
    await _under_way(database)
    async with database.begin() as tx:
        await tx.execute(update(deployments).values(status="done"))
        await tx.execute(update(replicas).values(state="stopped"))
    await ControllerLease(database, "a", BOOT).keep()
    await ControllerLease(database, "a", replace(LATER, now=lambda: NOON + DAY)).keep()
    assert await _times(database) == {NOON}


def test_a_clock_counts_the_time_since_boot_of_its_machine() -> None:
    clock = Clock()
    before = clock.moment()
    assert abs(clock.moment().jump_since(before)) < timedelta(seconds=1)
    assert before.boot_id


async def test_a_holder_that_was_frozen_for_as_long_as_a_lease_lasts_acts_under_it_no_more(
    database: Database,
) -> None:
    """It has not asked the database yet, so only its own clock can tell that another may lead."""
    seconds = [1_000.0]
    lease = ControllerLease(database, "one", replace(BOOT, boot_s=lambda: seconds[0]))
    await lease.keep()
    seconds[0] += CONTROLLER_TTL_S - 0.1
    held = lease.current()
    seconds[0] += 0.1
    with pytest.raises(StaleError):
        lease.current()
    await lease.keep()
    assert lease.current() == held


async def test_who_stands_by_looks_again_when_the_lease_ends_and_not_a_round_later(
    database: Database,
) -> None:
    await ControllerLease(database, "one", BOOT).keep()
    other = ControllerLease(database, "other", BOOT)
    assert await other.keep() == CONTROLLER_RENEW_S
    ending = text("UPDATE leases SET expires_at = clock_timestamp() + make_interval(secs => 0.5)")
    async with database.begin() as tx:
        await tx.execute(ending)
    pause_s = await other.keep()
    assert pause_s <= 0.5 + LATE_S
    with pytest.raises(StaleError):
        other.current()
    await asyncio.sleep(pause_s)
    await other.keep()
    assert other.current().epoch == 2


async def test_who_leads_and_stops_wakes_who_stands_by(database: Database) -> None:
    notices = database.notifications(CHANNEL)
    assert not await anext(notices)
    leading, standing_by = (
        ControllerLease(database, "one", BOOT),
        ControllerLease(database, "b", BOOT),
    )
    await leading.keep()
    await standing_by.keep()
    await hand_over(standing_by, SharedWake(database, Wake(), "b"))
    await hand_over(leading, SharedWake(database, Wake(), "one"))
    assert await anext(notices) == f"one {LEASE_LOOP}"
    await notices.aclose()
    await standing_by.keep()
    assert standing_by.current().epoch == 2
