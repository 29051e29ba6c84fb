"""Every replica is probed, however many there are, and never more than a few at once."""

import asyncio
from types import SimpleNamespace

from weighbridge.engines.base import EngineLaunch, EngineSettings, ProbeOutcome, ProbeResult
from weighbridge.replicas.probe import PROBES_PARALLEL_MAX, Prober, Question


def question(name: str, expected: ProbeOutcome | None = ProbeOutcome.READY) -> Question:
    launch = EngineLaunch(name, "d", name, "t", EngineSettings(), "/c")
    return Question(name, "i", "http://r", launch, False, 5.0, expected)


class Slow:
    """Answers when it is let; remembers the order and how many it was asked by at once."""

    def __init__(self) -> None:
        self.let = asyncio.Event()
        self.order: list[str] = []
        self.now = self.most = 0

    async def probe(self, url: str, launch: EngineLaunch, *, generate: bool) -> ProbeResult:
        self.order.append(launch.replica_id)
        self.now += 1
        self.most = max(self.most, self.now)
        await self.let.wait()
        self.now -= 1
        return ProbeResult(ProbeOutcome.READY)


def prober() -> Prober:
    clock = SimpleNamespace(now_s=0.0)
    return Prober(lambda: clock.now_s, lambda name: None)


async def answers(asked: Prober, names: list[str]) -> None:
    async with asyncio.timeout(10):
        while any(name in asked._tasks or name in asked._line for name in names):  # noqa: ASYNC110 - tasks have no event
            await asyncio.sleep(0)


async def test_those_beyond_the_first_wait_in_line_and_are_all_asked() -> None:
    one, engine = prober(), Slow()
    names = [f"r{number}" for number in range(4 * PROBES_PARALLEL_MAX)]
    for name in names:
        assert one.free(name)
        one.ask(engine, question(name))
    assert not any(one.free(name) for name in names)
    await asyncio.sleep(0)
    assert engine.order == names[:PROBES_PARALLEL_MAX]
    engine.let.set()
    await answers(one, names)
    assert engine.order == names
    assert engine.most == PROBES_PARALLEL_MAX
    assert all(one.take(name, "i") for name in names)
    assert all(one.free(name) for name in names)


async def test_a_replica_on_its_way_up_overtakes_those_that_serve() -> None:
    one, engine = prober(), Slow()
    for number in range(2 * PROBES_PARALLEL_MAX):
        one.ask(engine, question(f"r{number}"))
    one.ask(engine, question("new", ProbeOutcome.STARTING))
    engine.let.set()
    await answers(one, ["new"])
    assert engine.order.index("new") == PROBES_PARALLEL_MAX


async def test_who_is_gone_is_not_asked_and_nothing_outlives_its_owner() -> None:
    one, engine = prober(), Slow()
    names = [f"r{number}" for number in range(2 * PROBES_PARALLEL_MAX)]
    for name in names:
        one.ask(engine, question(name))
    await asyncio.sleep(0)
    one.keep(names[:PROBES_PARALLEL_MAX])
    assert one.free(names[-1])
    await one.close()
    assert len(engine.order) == PROBES_PARALLEL_MAX
