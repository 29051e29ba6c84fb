"""Leases: one holder at a time, and epochs that fence off the earlier one (D5)."""

import asyncio

import pytest
from sqlalchemy import text

from weighbridge.errors import StaleError, UnavailableError
from weighbridge.server.roles.leading import CONTROLLER_RENEW_S, CONTROLLER_TTL_S
from weighbridge.storage import lease
from weighbridge.storage.counters import next_value
from weighbridge.storage.database import Database


async def test_a_held_lease_is_refused_to_another(database: Database) -> None:
    async with database.begin() as tx:
        assert await lease.acquire(tx, "controller", "a") is not None
        assert await lease.acquire(tx, "controller", "b") is None


async def test_an_expired_lease_is_taken_over_with_a_higher_epoch(database: Database) -> None:
    async with database.begin() as tx:
        first = await lease.acquire(tx, "controller", "a", ttl_s=-1)
        second = await lease.acquire(tx, "controller", "b")
    assert first is not None
    assert second is not None
    assert second.epoch == first.epoch + 1
    async with database.begin() as tx:
        assert not await lease.renew(tx, first)
        with pytest.raises(StaleError):
            await lease.require(tx, first)
        await lease.require(tx, second)


async def test_a_restarted_holder_takes_its_own_lease_at_once_and_fences_its_former_self(
    database: Database,
) -> None:
    async with database.begin() as tx:
        before = await lease.acquire(tx, "controller", "a")
        after = await lease.acquire(tx, "controller", "a")
    assert before is not None
    assert after is not None
    async with database.begin() as tx:
        await lease.require(tx, after)
        with pytest.raises(StaleError):
            await lease.require(tx, before)


async def test_a_lease_from_before_the_clock_was_set_back_is_free(database: Database) -> None:
    """Its holder may be dead, and nobody would lead for as long as the clock jumped (D6)."""
    async with database.begin() as tx:
        first = await lease.acquire(tx, "controller", "a", ttl_s=86_400)
        second = await lease.acquire(tx, "controller", "b")
    assert first is not None
    assert second is not None
    assert second.epoch == first.epoch + 1


async def test_a_holder_frozen_within_a_transaction_keeps_nobody_from_the_lease_for_longer_than_it_lasts(
    database: Database,
) -> None:
    """Its locks go with its transaction, which the database ends."""
    async with database.begin() as tx:
        held = await lease.acquire(tx, "controller", "a", ttl_s=1)
    assert held is not None

    async def frozen() -> None:
        async with database.begin() as tx:
            await lease.require(tx, held)
            locked.set()
            await taken.wait()

    locked, taken = asyncio.Event(), asyncio.Event()
    freezing = asyncio.create_task(frozen())
    await locked.wait()
    await asyncio.sleep(1.5)
    begun_s = asyncio.get_running_loop().time()
    async with database.begin() as tx:
        # However long others may wait for a lock, the frozen one must not have it for so long.
        await tx.execute(text("SET LOCAL lock_timeout = 0"))
        after = await lease.acquire(tx, "controller", "b")
    assert after is not None
    assert asyncio.get_running_loop().time() - begun_s < CONTROLLER_TTL_S - CONTROLLER_RENEW_S
    taken.set()
    with pytest.raises(UnavailableError):
        await freezing


async def test_a_released_lease_is_free(database: Database) -> None:
    async with database.begin() as tx:
        held = await lease.acquire(tx, "controller", "a")
        assert held is not None
        await lease.release(tx, held)
        assert await lease.acquire(tx, "controller", "b") is not None


async def test_counters_count_from_one_and_do_not_skip_after_a_rollback(database: Database) -> None:
    async def count_and_fail() -> None:
        async with database.begin() as tx:
            await next_value(tx, "deployments")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await count_and_fail()
    async with database.begin() as tx:
        assert [await next_value(tx, "deployments") for _ in range(3)] == [1, 2, 3]
