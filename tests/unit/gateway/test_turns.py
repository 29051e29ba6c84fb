"""Waiting for a turn, with real tasks and a replica that holds so many at once."""

import asyncio
from dataclasses import dataclass, field

import pytest

from weighbridge.errors import LimitError
from weighbridge.gateway.limits.refusals import QuotaError
from weighbridge.gateway.limits.turns import QueueLimits, Turns


@dataclass
class Engine:
    """Takes `places_max` requests at once; `order` is who got in."""

    places_max: int = 1
    inside: int = 0
    most: int = 0
    order: list[str] = field(default_factory=list)

    def places(self, _endpoint_id: str) -> int:
        return max(0, self.places_max - self.inside)

    def choose(self) -> "Engine":
        if self.inside >= self.places_max:
            raise LimitError("busy", code="queue_exceeded")
        return self

    async def request(self, turns: Turns, key: str, name: str, until: asyncio.Event) -> None:
        await turns.first("e", key, 10, self.choose)
        self.inside += 1
        self.most = max(self.most, self.inside)
        self.order.append(name)
        try:
            await until.wait()
        finally:
            self.inside -= 1
            turns.freed("e")


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_keys_take_turns_however_many_requests_one_of_them_has() -> None:
    engine, done = Engine(), asyncio.Event()
    turns = Turns(engine.places, QueueLimits())
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(engine.request(turns, "first", "first", done))
        for number in range(3):
            tasks.create_task(engine.request(turns, "greedy", f"g{number}", done))
        await settled()
        tasks.create_task(engine.request(turns, "modest", "m0", done))
        await settled()
        assert turns.waiting == 4
        done.set()
    assert engine.order == ["first", "g0", "m0", "g1", "g2"]
    assert engine.most == 1
    assert turns.waiting == 0


async def test_a_wait_has_an_end_and_the_line_a_length() -> None:
    engine, done = Engine(), asyncio.Event()
    turns = Turns(engine.places, QueueLimits(wait_s=0.05, requests_max=2))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(engine.request(turns, "a", "a", done))
        await settled()
        waits = [asyncio.create_task(engine.request(turns, "a", "x", done)) for _ in range(3)]
        answers = await asyncio.gather(*waits, return_exceptions=True)
        assert [getattr(answer, "code", None) for answer in answers] == ["queue_exceeded"] * 3
        assert all(isinstance(answer, QuotaError) for answer in answers)
        done.set()
    assert turns.waiting == 0


async def test_without_a_queue_the_refusal_comes_at_once() -> None:
    engine, done = Engine(places_max=0), asyncio.Event()
    turns = Turns(engine.places, QueueLimits(requests_max=0))
    with pytest.raises(LimitError, match="busy"):
        await engine.request(turns, "a", "a", done)


async def test_callers_that_leave_pass_their_turn_on() -> None:
    engine, done = Engine(), asyncio.Event()
    turns = Turns(engine.places, QueueLimits())
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(engine.request(turns, "a", "a0", done))
        await settled()
        leaving = [tasks.create_task(engine.request(turns, "a", "gone", done)) for _ in range(5)]
        staying = tasks.create_task(engine.request(turns, "a", "stays", done))
        await settled()
        # One leaves while it waits, one in the very moment it is called.
        leaving[0].cancel()
        first.cancel()
        await asyncio.sleep(0)
        for task in leaving:
            task.cancel()
        await settled()
        assert engine.order == ["a0", "stays"]
        done.set()
        await staying
    assert turns.waiting == 0
    assert engine.inside == 0


async def test_a_place_that_another_worker_frees_is_noticed() -> None:
    engine, done = Engine(places_max=0), asyncio.Event()
    turns = Turns(engine.places, QueueLimits())
    watching = asyncio.create_task(turns.watch())
    waiting = asyncio.create_task(engine.request(turns, "a", "a", done))
    await settled()
    assert turns.waiting == 1
    engine.places_max = 1
    done.set()
    async with asyncio.timeout(5):
        await waiting
    watching.cancel()


async def test_a_place_that_another_worker_took_first_costs_no_place_in_line() -> None:
    engine, done = Engine(places_max=1, inside=1), asyncio.Event()
    promised = 1
    turns = Turns(lambda _: promised, QueueLimits())
    waiting = asyncio.create_task(engine.request(turns, "a", "a", done))
    behind = asyncio.create_task(engine.request(turns, "b", "b", done))
    await settled()
    assert turns.waiting >= 1
    engine.inside, promised = 0, 1
    turns.freed("e")
    done.set()
    async with asyncio.timeout(5):
        await asyncio.gather(waiting, behind)
    assert engine.order == ["a", "b"]


async def test_everybody_is_served_in_the_end_under_random_leaving() -> None:
    engine = Engine(places_max=3)
    turns = Turns(engine.places, QueueLimits())

    async def brief(number: int) -> str:
        done = asyncio.Event()
        asyncio.get_running_loop().call_later(0.001 * (number % 4), done.set)
        await engine.request(turns, f"k{number % 7}", str(number), done)
        return "served"

    tasks = [asyncio.create_task(brief(number)) for number in range(120)]
    for number in range(0, 120, 5):
        asyncio.get_running_loop().call_later(0.0005 * number, tasks[number].cancel)
    async with asyncio.timeout(20):
        results = await asyncio.gather(*tasks, return_exceptions=True)
    stayed = [result for number, result in enumerate(results) if number % 5]
    assert stayed == ["served"] * 96
    assert engine.most == 3
    assert (turns.waiting, engine.inside) == (0, 0)
