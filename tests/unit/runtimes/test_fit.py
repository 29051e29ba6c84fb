"""Which node could hold a replica, and what is said when none can."""

import pytest

from weighbridge.errors import LimitError, SetupError
from weighbridge.runtimes.base import NodeInfo, Placement, Resources, Spread
from weighbridge.runtimes.fit import GIB, has_room, obstacle
from weighbridge.runtimes.ray.options import RayOptions
from weighbridge.runtimes.ray.placement import Choice, choose, waiting_words
from weighbridge.settings import Settings

ANY = Placement()


def node(name: str, cpus: float, gpus: float = 0.0, *, used: float = 0.0, **more) -> NodeInfo:
    custom = more.pop("custom", {})
    memory = more.pop("memory_bytes", 0)
    return NodeInfo(
        name,
        more.pop("alive", True),
        Resources(cpus, gpus, memory, custom),
        Resources(cpus - used, gpus, memory, custom),
        **more,
    )


def test_a_replica_fits_where_one_node_offers_all_that_it_needs():
    nodes = [node("a", 4), node("b", 2, 1, memory_bytes=8 * GIB, custom={"nvlink": 1})]
    assert obstacle(nodes, Resources(4), ANY) is None
    assert obstacle(nodes, Resources(2, 1, 8 * GIB, {"nvlink": 1}), ANY) is None
    assert obstacle(nodes, Resources(4, 1), ANY) == (
        "a replica needs 4 CPU, 1 GPU; no node offers that (a: 4 CPU, 0 GPU; b: 2 CPU, 1 GPU)"
    )
    assert "9.0 GiB memory" in obstacle(nodes, Resources(1, 0, 9 * GIB), ANY)
    assert "1 tpu" in obstacle(nodes, Resources(1, custom={"tpu": 1}), ANY)


def test_what_is_in_use_now_may_be_free_later_but_a_dead_node_offers_nothing():
    assert obstacle([node("a", 4, used=4)], Resources(4), ANY) is None
    assert not has_room(node("a", 4, used=1), Resources(4), ANY)
    nodes = [node("a", 4, alive=False), node("b", 1)]
    assert obstacle(nodes, Resources(4), ANY) is not None


def test_where_no_node_is_known_nothing_is_said():
    assert obstacle([], Resources(4), ANY) is None
    assert obstacle([node("a", 1, alive=False)], Resources(4), ANY) is None


def test_a_node_that_counts_slots_shares_its_cores():
    one = node("local", 2, custom={"slots": 8})
    assert obstacle([one], Resources(16, memory_bytes=GIB), ANY) is None
    assert obstacle([one], Resources(1, 1), ANY) is not None


def test_labels_must_be_those_of_the_node():
    nodes = [node("a", 4, labels={"rack": "r1", "disk": "nvme"})]
    assert obstacle(nodes, Resources(), Placement({"rack": "r1"})) is None
    assert "none of 1 nodes carries" in obstacle(nodes, Resources(), Placement({"rack": "r2"}))


def test_a_strict_spread_takes_a_node_of_its_own_or_waits():
    nodes = {"1": node("a", 4), "2": node("b", 4, used=2)}
    strict = Placement(spread=Spread.STRICT, group="g")
    assert choose(nodes, [], Resources(), strict) == Choice("1", hard=True)
    assert choose(nodes, ["1"], Resources(), strict) == Choice("2", hard=True)
    with pytest.raises(LimitError, match="without another replica of the same rollout"):
        choose(nodes, ["1", "2"], Resources(), strict)


def test_a_preferred_spread_takes_the_node_with_fewest_and_leaves_the_rest_to_the_cluster():
    nodes = {"1": node("a", 4), "2": node("b", 4, used=2)}
    prefer = Placement(spread=Spread.PREFER, group="g")
    assert choose(nodes, ["1"], Resources(), prefer) == Choice("2", hard=False)
    assert choose(nodes, ["1", "2"], Resources(), prefer) == Choice("1", hard=False)
    assert choose(nodes, [], Resources(9), prefer) == Choice()
    assert choose(nodes, [], Resources(), ANY) == Choice()
    assert (
        waiting_words(nodes, Resources(9), ANY)
        == "waits for 9 CPU; 2 nodes have no room for it now"
    )


def test_the_driver_inherits_no_secret_of_the_server(monkeypatch):
    monkeypatch.setenv("WEIGHBRIDGE_DATABASE_URL", "postgresql://u:secret@host/db")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    settings = Settings(runtime="ray", ray_address="h:6379", ray_auth_token="t" * 16)
    options = RayOptions.of(settings)
    environment = options.environment()
    assert "secret" not in str(environment)
    assert (environment["RAY_AUTH_MODE"], environment["RAY_AUTH_TOKEN"]) == ("token", "t" * 16)
    assert "t" * 16 not in " ".join(options.arguments())


def test_an_address_and_a_token_are_needed_or_their_want_said():
    with pytest.raises(SetupError, match="WEIGHBRIDGE_RAY_ADDRESS"):
        RayOptions.of(Settings(runtime="ray"))
    with pytest.raises(SetupError, match="WEIGHBRIDGE_RAY_AUTH=off"):
        RayOptions.of(Settings(runtime="ray", ray_address="h:6379"))
    off = RayOptions.of(Settings(runtime="ray", ray_address="h:6379", ray_auth="off"))
    assert off.environment()["RAY_AUTH_MODE"] == "disabled"


SPAN = Placement(nodes=2)
EIGHT = Resources(1, 8)


def test_a_replica_over_several_nodes_needs_as_many_that_offer_what_it_needs():
    nodes = [node("a", 8, 8), node("b", 8, 8), node("c", 8, 4)]
    assert obstacle(nodes, EIGHT, SPAN) is None
    assert obstacle(nodes, EIGHT, Placement(nodes=3)) == (
        "a replica needs 1 CPU, 8 GPU on each of 3 nodes; only 2 of them can offer that "
        "(a: 8 CPU, 8 GPU; b: 8 CPU, 8 GPU; c: 8 CPU, 4 GPU)"
    )
    local = node("local", 8, 8, custom={"slots": 8})
    assert obstacle([local], EIGHT, SPAN) == (
        "a replica needs 1 CPU, 8 GPU on each of 2 nodes; "
        "this server runs replicas on its own machine, not on a Ray cluster"
    )


def test_a_replica_over_several_nodes_begins_on_one_that_has_accelerators_and_waits_for_all():
    nodes = {name: node(name, cpus, gpus) for name, cpus, gpus in (("a", 4, 8), ("b", 8, 8))}
    nodes["c"] = node("c", 16)
    assert choose(nodes, [], EIGHT, SPAN) == Choice("b", hard=True)
    with pytest.raises(LimitError, match="waits for 1 CPU, 8 GPU on each of 2 nodes"):
        choose(nodes, [], EIGHT, SPAN, spanned=2)  # of one that has not taken its own yet
    del nodes["a"]
    with pytest.raises(LimitError):
        choose(nodes, [], EIGHT, SPAN)
