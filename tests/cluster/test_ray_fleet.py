"""What a driver makes of its actors' answers, and of those that do not come: on a cluster of values."""

import io
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from time import monotonic
from types import SimpleNamespace

import msgspec
import pytest
from ray.exceptions import ActorUnavailableError
from ray_replicas import spec

from weighbridge.errors import LimitError, UnavailableError
from weighbridge.runtimes import wire
from weighbridge.runtimes.base import (
    GROUP_LABEL,
    NodeInfo,
    Placement,
    ReplicaSpec,
    ReplicaStatus,
    Resources,
    RuntimeState,
    Spread,
)
from weighbridge.runtimes.ray import fleet as fleet_module
from weighbridge.runtimes.ray.cluster import place_options
from weighbridge.runtimes.ray.driver import Driver
from weighbridge.runtimes.ray.fence.epochs import check_epoch, raise_epoch
from weighbridge.runtimes.ray.fleet import IDLE_MAX_S, Fleet
from weighbridge.runtimes.ray.placement import Choice
from weighbridge.runtimes.ray.wire import NODE_LOST_CODE, Call

APART = Placement(spread=Spread.STRICT, group="d1")
NODES = {
    node_id: NodeInfo(f"n{node_id}", True, Resources(4.0), Resources(4.0)) for node_id in ("1", "2")
}
LISTS_MAX = 50
"""An answer that is there already is taken by one of the next lists."""


class Method:
    """Of an actor: `remote` gives a reference, whose future ends with what the call gives."""

    def __init__(self, actor: "Actor", call: Callable[..., object]) -> None:
        self._actor, self._call = actor, call

    def remote(self, *arguments: object) -> SimpleNamespace:
        answer: Future[object] = Future()
        if not self._actor.hangs:
            try:
                answer.set_result(self._call(*arguments))
            except ActorUnavailableError as error:
                answer.set_exception(error)
        return SimpleNamespace(future=lambda: answer)


class Actor:
    def __init__(self, name: str, node: str = "1") -> None:
        self.name, self.node = name, node
        self.replica: ReplicaStatus | None = None
        self.waits = self.hangs = self.out_of_reach = False
        self._actor_id = SimpleNamespace(hex=lambda: f"id of {name}")
        self.launch = Method(self, self._launch)
        self.status = Method(self, lambda: msgspec.json.encode(self.replica))
        self.logs = Method(self, lambda tail_bytes: f"{name} says"[-tail_bytes:])

    def become(self, state: RuntimeState, labels: Mapping[str, str], **more) -> None:
        self.replica = ReplicaStatus(self.name, state, labels, "i", self.node, **more)

    def _launch(self, text: bytes, epoch: int) -> bytes:
        if self.out_of_reach:
            raise ActorUnavailableError("the connection was cut", None)
        wish = msgspec.json.decode(text, type=ReplicaSpec)
        self.become(RuntimeState.RUNNING, wish.labels)
        return msgspec.json.encode(self.replica)


@dataclass
class Cluster:
    """As weighbridge.runtimes.ray.cluster has it."""

    actors: dict[str, Actor] = field(default_factory=dict)
    epochs: list[int] = field(default_factory=lambda: [0])
    namespace: str = "values"
    node_id: str = "1"
    nodes_found: Mapping[str, NodeInfo] = field(default_factory=lambda: dict(NODES))

    def raise_epoch(self, epoch: int) -> int:
        self.epochs.append(epoch)
        return max(self.epochs)

    def add(
        self, name: str, state: RuntimeState | None = None, *, node: str = "1", **more
    ) -> Actor:
        actor = self.actors[name] = Actor(name, node)
        if state is not None:
            actor.become(state, more.pop("labels", {}), **more)
        return actor

    def names(self) -> frozenset[str]:
        return frozenset(self.actors)

    def actor(self, name: str) -> Actor | None:
        return self.actors.get(name)

    def create(self, wish: ReplicaSpec, choice: Choice) -> Actor:
        return self.actors.get(wish.name) or self.add(wish.name, node=choice.node_id or "1")

    def kill(self, actor: Actor) -> None:
        self.actors.pop(actor.name, None)

    def node_of(self, actor: Actor) -> str | None:
        return None if actor.waits else actor.node

    def nodes(self) -> Mapping[str, NodeInfo]:
        return self.nodes_found


@pytest.fixture
def cluster_of_values() -> Cluster:
    return Cluster()


@pytest.fixture
def fleet(cluster_of_values: Cluster) -> Fleet:
    return Fleet(cluster_of_values, monotonic)


async def listed(fleet: Fleet, condition: Callable[..., bool], *, epoch: int = 1):
    for _ in range(LISTS_MAX):
        found = await fleet.statuses({}, epoch=epoch)
        if condition(found):
            return found
    raise AssertionError(found)


async def test_only_for_a_leader_is_given_back_what_an_ended_replica_held(cluster_of_values, fleet):
    cluster_of_values.add("r1", RuntimeState.EXITED, exit_code=3)
    for _ in range(3):
        assert [s.exit_code for s in await fleet.statuses({}, epoch=0)] == [3]
    assert [s.exit_code for s in await fleet.statuses({}, epoch=1)] == [3]
    assert cluster_of_values.names() == {"r1"}
    assert await fleet.logs("r1", 100) == "r1 says"
    assert [s.exit_code for s in await fleet.statuses({}, epoch=1)] == [3]
    assert cluster_of_values.names() == frozenset()
    assert await fleet.logs("r1", 4) == "says"


async def test_the_epoch_of_a_list_says_whether_its_caller_leads(cluster_of_values, fleet):
    cluster_of_values.add("r1", RuntimeState.EXITED, exit_code=3)
    driver = Driver(fleet, io.BytesIO())
    for number in range(3):
        await driver._answer(Call(number, wire.List({})))
    assert cluster_of_values.names() == {"r1"}
    for number in range(2):
        await driver._answer(Call(number, wire.List({}, epoch=1)))
    assert cluster_of_values.names() == frozenset()


async def test_a_controller_that_another_one_has_followed_is_refused_whatever_it_asks(
    cluster_of_values, fleet
):
    cluster_of_values.add("r1", RuntimeState.RUNNING)
    await fleet.statuses({}, epoch=8)
    calls = (
        lambda: fleet.launch(spec("r2"), 7),
        lambda: fleet.statuses({}, 7),
        lambda: fleet.stop("r1", 1.0, 7),
        lambda: fleet.forget("r1", 7),
    )
    for call in calls:
        with pytest.raises(UnavailableError, match=r"epoch 8 leads .* this one's is 7"):
            await call()
    assert cluster_of_values.names() == {"r1"}
    assert [s.name for s in await fleet.statuses({}, epoch=0)] == ["r1"]  # an api leads nobody


class Values:
    """A store of keys as the cluster's head has it."""

    def __init__(self) -> None:
        self.held: set[str] = set()

    def put(self, key: str) -> None:
        self.held.add(key)

    def delete(self, key: str) -> None:
        self.held.discard(key)

    def keys(self, prefix: str) -> list[str]:
        return [key for key in self.held if key.startswith(prefix)]


def test_the_highest_epoch_of_a_namespace_stands_and_the_lower_ones_are_cleared_away():
    values = Values()
    assert [raise_epoch(values, "a", epoch) for epoch in (1, 3, 2, 3, 10)] == [1, 3, 3, 3, 10]
    assert values.held == {"epoch:a:10"}
    assert raise_epoch(values, "b", 4) == 4
    for epoch in (0, 10, 11):
        check_epoch(values, "a", epoch)
    with pytest.raises(UnavailableError, match="WEIGHBRIDGE_RAY_NAMESPACE"):
        check_epoch(values, "a", 9)


async def test_an_idle_actor_is_ended_by_a_leader_alone_after_its_full_time(cluster_of_values):
    now_s = [0.0]
    fleet = Fleet(cluster_of_values, lambda: now_s[0])
    cluster_of_values.add("r1")
    for now_s[0] in (0.0, 10 * IDLE_MAX_S):
        assert await fleet.statuses({}, epoch=0) == []
    now_s[0] += IDLE_MAX_S / 2
    assert await fleet.statuses({}, epoch=1) == []
    assert cluster_of_values.names() == {"r1"}
    now_s[0] += IDLE_MAX_S
    assert await fleet.statuses({}, epoch=1) == []
    assert cluster_of_values.names() == frozenset()


async def test_a_launch_that_did_not_reach_its_actor_may_be_asked_for_again(
    cluster_of_values, fleet
):
    actor = cluster_of_values.add("r1")
    actor.out_of_reach = True
    await fleet.launch(spec("r1"))
    await listed(fleet, lambda found: not found)
    actor.out_of_reach = False
    await fleet.launch(spec("r1"))
    (status,) = await listed(fleet, lambda found: [s.incarnation for s in found] == ["i"])
    assert status.state is RuntimeState.RUNNING


async def test_a_driver_that_has_listed_nothing_knows_the_group_of_what_it_finds(
    cluster_of_values, fleet
):
    cluster_of_values.add("r1", RuntimeState.RUNNING, labels={GROUP_LABEL: "d1"})
    cluster_of_values.add("other", RuntimeState.RUNNING, node="2", labels={GROUP_LABEL: "d2"})
    cluster_of_values.add("idle", node="2")
    await fleet.launch(spec("r2", placement=APART))
    assert cluster_of_values.actors["r2"].node == "2"
    with pytest.raises(LimitError, match="without another replica of the same rollout"):
        await fleet.launch(spec("r3", placement=APART))


async def test_a_replica_that_does_not_say_whose_it_is_keeps_others_off_its_node(
    cluster_of_values, fleet
):
    cluster_of_values.add("silent").hangs = True
    waiting = cluster_of_values.add("waiting", node="2")
    waiting.hangs = waiting.waits = True
    await fleet.launch(spec("r1", placement=APART))
    assert cluster_of_values.actors["r1"].node == "2"


@pytest.mark.parametrize("left", [{}, {"1": replace(NODES["1"], alive=False)}])
async def test_a_driver_whose_own_node_is_no_more_says_so_and_changes_nothing(
    cluster_of_values, fleet, left
):
    cluster_of_values.nodes_found = {"2": NODES["2"], **left}
    for call in (fleet.statuses({}, epoch=1), fleet.launch(spec("r1"), 1), fleet.capacity()):
        with pytest.raises(UnavailableError) as refused:
            await call
        assert refused.value.code == NODE_LOST_CODE
    assert cluster_of_values.actors == {}


async def test_a_replica_that_was_found_is_not_launched_again(cluster_of_values, fleet):
    found = cluster_of_values.add("r1", RuntimeState.RUNNING, labels={GROUP_LABEL: "d1"}, pid=7)
    await fleet.launch(spec("r1", placement=APART))
    assert found.replica.pid == 7


async def test_the_last_words_of_all_that_have_ended_are_waited_for_side_by_side(
    cluster_of_values, fleet, monkeypatch
):
    monkeypatch.setattr(fleet_module, "LAST_WORDS_TIMEOUT_S", 1.0)
    actors = [cluster_of_values.add(f"r{n}", RuntimeState.EXITED, exit_code=n) for n in range(8)]
    await listed(fleet, lambda found: len(found) == len(actors))
    for actor in actors:
        actor.hangs = True
    began_s = monotonic()
    found = await fleet.statuses({}, epoch=1)
    assert monotonic() - began_s < len(actors) / 2
    assert {status.exit_code for status in found} == set(range(len(actors)))
    assert cluster_of_values.names() == frozenset()


async def test_a_driver_without_an_entry_asks_the_actor_for_its_logs(cluster_of_values, fleet):
    cluster_of_values.add("r1", RuntimeState.RUNNING)
    cluster_of_values.add("r2").waits = True
    assert await fleet.logs("r1", 100) == "r1 says"
    assert await fleet.logs("r2", 100) == ""
    assert await fleet.logs("nobody", 100) == ""


def test_a_preferred_node_is_left_for_another_with_the_same_labels_and_a_needed_one_is_not():
    node_id = "ab" * 28
    wish = spec(
        "r1", placement=Placement({"rack": "r1"}), resources=Resources(2.0, 1, 10, {"x": 1})
    )
    preferred = place_options(wish, Choice(node_id))
    needed = place_options(wish, Choice(node_id, hard=True))
    for options in (preferred, needed, place_options(wish, Choice())):
        assert options["label_selector"] == {"rack": "r1"}
        assert (options["num_cpus"], options["num_gpus"], options["memory"]) == (2.0, 1, 10.0)
        assert options["resources"] == {"x": 1}
    strategies = [options["scheduling_strategy"] for options in (preferred, needed)]
    assert [one.node_id for one in strategies] == [node_id, node_id]
    assert [(one.soft, one._spill_on_unavailable) for one in strategies] == [
        (True, True),
        (False, False),
    ]
    assert "scheduling_strategy" not in place_options(wish, Choice())
