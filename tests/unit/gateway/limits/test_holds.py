"""The line of requests that no replica can take yet: its limits, its order, and how it is let go."""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from weighbridge.clock import Clock
from weighbridge.errors import WeighbridgeError
from weighbridge.gateway.limits.holds import OUTAGE_HOLDS_MAX, PACE_MIN, Held, HoldLimits, Holds
from weighbridge.gateway.limits.refusals import NotReadyError
from weighbridge.gateway.table import EMPTY_TABLES, CurrentTables
from weighbridge.routing.model import EndpointRoute, RouteTable

NOW_UNIX_S = 1_700_000_000.0


@dataclass
class Hands:
    """Of a clock that stands until they are moved."""

    at_s: float = 100.0

    def made(self) -> Clock:
        return Clock(
            now=lambda: datetime.fromtimestamp(NOW_UNIX_S + self.at_s, UTC),
            monotonic=lambda: self.at_s,
        )


@dataclass
class World:
    """One endpoint; `places` is how many requests its replica takes, None: any."""

    limits: HoldLimits = field(default_factory=HoldLimits)
    hold_s: float = 10.0
    start_s: float = 2.0
    expected_unix_s: float | None = None
    is_ready: bool = False
    places: int | None = None
    served: list[str] = field(default_factory=list)
    hands: Hands = field(default_factory=Hands)

    def __post_init__(self) -> None:
        route = EndpointRoute(
            endpoint_id="e",
            org_id="o",
            org_name="o",
            arch_id="a",
            created_unix_s=0,
            deployed=True,
            rolling_out=True,
            replicas=(),
            hold_s=self.hold_s,
            start_s=self.start_s,
            ready_expected_unix_s=self.expected_unix_s,
        )
        current = CurrentTables(EMPTY_TABLES.with_routes(RouteTable(1, (route,))))
        self.holds = Holds(self.limits, current, lambda _: self.is_ready, self.hands.made())


@dataclass(eq=False)
class Caller:
    world: World
    name: str
    key: str = "k"
    size_bytes: int = 10
    refused: WeighbridgeError | None = None
    held: Held | None = None

    def wait(self) -> "Caller":
        self.held = self.world.holds.join("e", self.key, self.size_bytes, self, stream=False)
        return self

    def proceed(self) -> bool:
        if self.world.places is not None and len(self.world.served) >= self.world.places:
            return False
        self.world.served.append(self.name)
        return True

    def turned_away(self, error: WeighbridgeError) -> None:
        self.refused = error


def test_nothing_is_let_go_before_a_replica_is_ready_then_more_at_each_look() -> None:
    world = World()
    count = 3 * PACE_MIN + 1
    for number in range(count):
        Caller(world, str(number)).wait()
    world.holds.look()
    assert (world.served, world.holds.busy("e")) == ([], True)
    world.is_ready = True
    seen = []
    while world.holds.busy("e"):
        world.holds.look()
        seen.append(len(world.served))
    assert seen == [PACE_MIN, 3 * PACE_MIN, count]
    assert world.served == [str(number) for number in range(count)]
    assert world.holds.figures["e"].released == count


async def test_each_outage_ends_soon_after_a_replica_is_ready() -> None:
    world = World()
    watching = asyncio.create_task(world.holds.watch())
    for name in "ab":
        world.is_ready = False
        Caller(world, name).wait()
        await asyncio.sleep(0)
        world.is_ready = True
        async with asyncio.timeout(5):
            while world.holds.busy("e"):  # noqa: ASYNC110 - the wait under test has no event
                await asyncio.sleep(0.005)
    assert world.served == ["a", "b"]
    watching.cancel()


def test_keys_take_turns() -> None:
    world = World()
    for number in range(3):
        Caller(world, f"g{number}", "greedy").wait()
    Caller(world, "m", "modest").wait()
    world.is_ready = True
    world.holds.look()
    assert world.served == ["g0", "m", "g1", "g2"]


def test_who_finds_no_place_stays_the_next() -> None:
    world = World(places=1, is_ready=True)
    for name in "abc":
        Caller(world, name).wait()
    world.holds.look()
    world.holds.look()
    assert (world.served, world.holds.waiting) == (["a"], 2)
    world.places = None
    world.holds.look()
    assert world.served == ["a", "b", "c"]


async def test_a_full_line_turns_away_the_newest_of_the_key_that_has_most() -> None:
    world = World(HoldLimits(requests_max=2))
    first, second = Caller(world, "1", "greedy").wait(), Caller(world, "2", "greedy").wait()
    Caller(world, "3", "modest").wait()
    await asyncio.sleep(0)
    assert first.refused is None
    assert isinstance(second.refused, NotReadyError)
    assert second.refused.retry_after_s == 2.0


def test_bytes_count_over_all_and_are_given_back() -> None:
    world = World(HoldLimits(bytes_max=25))
    held = Caller(world, "1").wait()
    Caller(world, "2").wait()
    with pytest.raises(NotReadyError):
        Caller(world, "3").wait()
    assert held.held is not None
    world.holds.leave(held.held)
    world.holds.leave(held.held)
    Caller(world, "4").wait()
    world.is_ready = True
    world.holds.look()
    world.is_ready = False
    Caller(world, "5", size_bytes=25).wait()


@pytest.mark.parametrize(("hold_s", "requests_max"), [(0.0, 256), (10.0, 0)])
def test_where_holding_is_off_the_refusal_names_the_time_a_start_takes(
    hold_s: float, requests_max: int
) -> None:
    world = World(HoldLimits(requests_max=requests_max), hold_s=hold_s, start_s=33.0)
    with pytest.raises(NotReadyError) as refused:
        Caller(world, "1").wait()
    assert refused.value.retry_after_s == 33.0


def test_the_estimate_is_what_is_left_of_the_start_under_way() -> None:
    world = World(hold_s=5.0, expected_unix_s=NOW_UNIX_S + 130.0)
    with pytest.raises(NotReadyError) as refused:
        Caller(world, "1").wait()
    assert refused.value.retry_after_s == pytest.approx(30.0)
    world.hands.at_s += 26.0
    Caller(world, "2").wait()


def test_an_outage_without_end_holds_nobody_any_more_until_a_replica_has_been_seen() -> None:
    world = World()
    first = Caller(world, "1").wait()
    assert first.held is not None
    world.holds.leave(first.held)
    world.hands.at_s += OUTAGE_HOLDS_MAX * world.hold_s + 1
    with pytest.raises(NotReadyError):
        Caller(world, "2").wait()
    world.is_ready = True
    world.holds.look()
    world.is_ready = False
    Caller(world, "3").wait()


def test_a_request_given_back_is_the_next_again_and_waits_no_longer_than_before() -> None:
    world = World()
    first, second = Caller(world, "1").wait(), Caller(world, "2").wait()
    world.is_ready = True
    world.holds.look()
    assert first.held is not None
    assert second.held is not None
    due_s = first.held.due_s
    world.hands.at_s += 3
    world.served.clear()
    Caller(world, "3").wait()
    world.holds.rejoin(first.held)
    world.holds.look()
    assert (world.served, first.held.due_s) == (["1", "3"], due_s)


async def test_who_is_given_back_keeps_the_line_within_its_limits() -> None:
    """Others have taken the places meanwhile; the newest of the key that has most makes room."""
    world = World(HoldLimits(requests_max=2, bytes_max=1_000), is_ready=True)
    back = [Caller(world, "a", "greedy").wait(), Caller(world, "b", "modest").wait()]
    world.holds.look()
    others = [Caller(world, name, "greedy").wait() for name in "cd"]
    for caller in back:
        assert caller.held is not None
        world.holds.rejoin(caller.held)
    await asyncio.sleep(0)
    assert world.holds.waiting == 2
    assert all(isinstance(caller.refused, NotReadyError) for caller in others)
    assert [caller.refused for caller in back] == [None, None]


async def test_who_is_given_back_keeps_the_bytes_within_their_limit() -> None:
    world = World(HoldLimits(bytes_max=30), is_ready=True)
    back = Caller(world, "a", size_bytes=20).wait()
    world.holds.look()
    other = Caller(world, "b", size_bytes=30).wait()
    assert back.held is not None
    world.holds.rejoin(back.held)
    await asyncio.sleep(0)
    assert isinstance(other.refused, NotReadyError)
    world.holds.leave(back.held)
    Caller(world, "c", size_bytes=30).wait()


def test_who_comes_while_the_line_is_let_go_waits_its_turn_however_long_the_outage_was() -> None:
    world = World()
    first = Caller(world, "first").wait()
    world.hands.at_s += OUTAGE_HOLDS_MAX * world.hold_s + 1
    with pytest.raises(NotReadyError):
        Caller(world, "too late").wait()
    world.is_ready = True
    second = Caller(world, "second").wait()
    world.holds.look()
    assert world.served == ["first", "second"]
    assert (first.refused, second.refused) == (None, None)
