"""Waiting for a turn, on a real loop, for a replica that holds so many at once."""

import asyncio
from dataclasses import dataclass, field

from weighbridge.errors import LimitError
from weighbridge.gateway.limits.refusals import QuotaError
from weighbridge.gateway.limits.turns import QueueLimits, Turn, Turns


@dataclass
class Engine:
    """Takes `places_max` requests at once; `order` is who got in."""

    places_max: int = 1
    inside: int = 0
    most: int = 0
    order: list[str] = field(default_factory=list)

    def enter(self, name: str) -> bool:
        if self.inside >= self.places_max:
            return False
        self.inside += 1
        self.most = max(self.most, self.inside)
        self.order.append(name)
        return True


@dataclass(eq=False)
class Caller:
    """A request as its visit does it: tries when nobody waits, else joins; `ended` frees its place."""

    turns: Turns
    engine: Engine
    key: str
    name: str
    turn: Turn | None = None
    inside: bool = False
    refused: LimitError | None = None

    def __post_init__(self) -> None:
        if self.turns.busy("e") or not self.proceed():
            self.turn = self.turns.join("e", self.key, 10, self)

    def proceed(self) -> bool:
        self.inside = self.engine.enter(self.name)
        return self.inside

    def turned_away(self, error: LimitError) -> None:
        self.refused = error

    def gone(self) -> None:
        """Left while waiting, or ended."""
        if self.inside:
            self.inside = False
            self.engine.inside -= 1
            self.turns.freed("e")
        elif self.turn is not None:
            self.turns.leave(self.turn)


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def end_one_after_the_other(*callers: Caller) -> None:
    left = list(callers)
    while inside := [caller for caller in left if caller.inside]:
        inside[0].gone()
        left.remove(inside[0])
        await settled()


async def test_keys_take_turns_however_many_requests_one_of_them_has() -> None:
    engine, turns = Engine(), Turns(QueueLimits())
    first = Caller(turns, engine, "first", "first")
    greedy = [Caller(turns, engine, "greedy", f"g{number}") for number in range(3)]
    modest = Caller(turns, engine, "modest", "m0")
    assert turns.waiting == 4
    await end_one_after_the_other(first, *greedy, modest)
    assert engine.order == ["first", "g0", "m0", "g1", "g2"]
    assert engine.most == 1
    assert turns.waiting == 0
    assert not turns.busy("e")


async def test_the_line_has_a_length() -> None:
    engine, turns = Engine(), Turns(QueueLimits(requests_max=2))
    callers = [Caller(turns, engine, "a", str(number)) for number in range(4)]
    assert all(caller.refused is None for caller in callers)
    await settled()
    refused = [caller for caller in callers if caller.refused is not None]
    assert refused == callers[3:]
    assert isinstance(refused[0].refused, QuotaError)
    assert refused[0].refused.code == "queue_exceeded"
    assert turns.waiting == 2


async def test_a_newcomer_displaces_the_newest_of_the_key_that_has_most() -> None:
    engine, turns = Engine(), Turns(QueueLimits(requests_max=2))
    callers = [Caller(turns, engine, "a", str(number)) for number in range(3)]
    other = Caller(turns, engine, "b", "b")
    await settled()
    assert [caller.refused is None for caller in (*callers, other)] == [True, True, False, True]


async def test_who_left_before_hearing_of_its_refusal_hears_nothing() -> None:
    engine, turns = Engine(), Turns(QueueLimits(requests_max=1))
    callers = [Caller(turns, engine, "a", str(number)) for number in range(3)]
    callers[2].gone()
    await settled()
    assert callers[2].refused is None
    assert turns.waiting == 1


async def test_callers_that_leave_pass_their_turn_on() -> None:
    """One leaves while it waits, one in the very moment before it is called."""
    engine, turns = Engine(), Turns(QueueLimits())
    first = Caller(turns, engine, "a", "a0")
    leaving = [Caller(turns, engine, "a", "gone") for _ in range(5)]
    staying = Caller(turns, engine, "a", "stays")
    leaving[0].gone()
    first.gone()
    for caller in leaving[1:]:
        caller.gone()
    await settled()
    assert engine.order == ["a0", "stays"]
    staying.gone()
    assert (turns.waiting, engine.inside) == (0, 0)


async def test_nobody_overtakes_while_a_place_is_free_and_somebody_waits() -> None:
    engine, turns = Engine(), Turns(QueueLimits())
    first = Caller(turns, engine, "a", "first")
    Caller(turns, engine, "a", "waits")
    first.gone()
    Caller(turns, engine, "a", "late")
    await settled()
    assert engine.order == ["first", "waits"]


async def test_a_place_that_another_worker_frees_is_noticed() -> None:
    engine, turns = Engine(places_max=0), Turns(QueueLimits())
    watching = asyncio.create_task(turns.watch())
    for count in (1, 2):  # and again after the line was empty
        waiting = Caller(turns, engine, "a", "a")
        assert turns.waiting == 1
        engine.places_max = count
        async with asyncio.timeout(5):
            while not waiting.inside:  # noqa: ASYNC110 - the wait under test has no event
                await asyncio.sleep(0.005)
    watching.cancel()


async def test_a_place_that_another_worker_took_first_costs_no_place_in_line() -> None:
    engine, turns = Engine(inside=1), Turns(QueueLimits())
    waiting = Caller(turns, engine, "a", "a")
    Caller(turns, engine, "b", "b")
    turns.freed("e")
    await settled()
    assert turns.waiting == 2
    engine.inside = 0
    turns.freed("e")
    await settled()
    waiting.gone()
    await settled()
    assert engine.order == ["a", "b"]


async def test_everybody_is_served_in_the_end_under_random_leaving() -> None:
    engine, turns = Engine(places_max=3), Turns(QueueLimits())
    loop = asyncio.get_running_loop()
    callers = [Caller(turns, engine, f"k{number % 7}", str(number)) for number in range(120)]
    for caller in callers[::5]:
        caller.gone()
    staying = [caller for number, caller in enumerate(callers) if number % 5]
    ending = list(staying)
    async with asyncio.timeout(20):
        while ending:
            for caller in [one for one in ending if one.inside]:
                ending.remove(caller)
                loop.call_later(0.001 * (int(caller.name) % 4), caller.gone)
            await asyncio.sleep(0.001)
        while engine.inside:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.001)
    assert {caller.name for caller in staying} <= set(engine.order)
    assert engine.most == 3
    assert turns.waiting == 0
