"""The wheel on a running loop: deadlines are kept after it stood still, and it stands still when it holds nothing."""

import asyncio
import math

import pytest

from weighbridge.clock import monotonic_s
from weighbridge.gateway.wire.timers import NOWHERE, TICK_S, Timers

LATE_S = 5.0
"""A loaded machine's patience; the wheel itself is two ticks late at most."""


class Item:
    def __init__(self) -> None:
        self.due_s = math.inf
        self.due_tick = NOWHERE
        self.expired_at_s = asyncio.get_running_loop().create_future()

    def expired(self) -> None:
        self.expired_at_s.set_result(monotonic_s())


@pytest.fixture
async def timers():
    found = Timers(monotonic_s())
    found.start()
    yield found
    found.stop()


async def kept(timers: Timers, after_s: float) -> None:
    item, due_s = Item(), monotonic_s() + after_s
    timers.set(item, due_s)
    assert await asyncio.wait_for(item.expired_at_s, LATE_S) >= due_s


async def test_a_deadline_is_kept_however_long_the_wheel_stood_still(timers):
    await kept(timers, 0.01)
    await asyncio.sleep(10 * TICK_S)
    await kept(timers, 0.01)
    await asyncio.sleep(10 * TICK_S)
    await kept(timers, 3 * TICK_S)


async def test_an_item_set_by_one_that_expires_is_kept(timers):
    first, second = Item(), Item()
    first.expired = lambda: timers.set(second, monotonic_s())
    timers.set(first, monotonic_s())
    await asyncio.wait_for(second.expired_at_s, LATE_S)


async def test_nothing_wakes_a_loop_whose_wheel_holds_nothing(timers, monkeypatch):
    item = Item()
    timers.set(item, monotonic_s() + 100.0)
    timers.clear(item)
    await kept(timers, 0.0)
    ticks = []

    def looked() -> float:
        ticks.append(monotonic_s())
        return ticks[-1]

    monkeypatch.setattr("weighbridge.gateway.wire.timers.monotonic_s", looked)
    await asyncio.sleep(25 * TICK_S)  # the turn where the cleared item was has passed by now
    ticks.clear()
    await asyncio.sleep(5 * TICK_S)
    assert ticks == []


async def test_a_deadline_set_before_the_start_is_kept_after_it():
    timers, item = Timers(monotonic_s()), Item()
    timers.set(item, monotonic_s())
    await asyncio.sleep(2 * TICK_S)
    timers.start()
    await asyncio.wait_for(item.expired_at_s, LATE_S)
    timers.stop()
