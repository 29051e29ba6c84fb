"""Weights come to the nodes of the replicas that a rollout replaces before the first of them is drained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from weighbridge.control.wake import Wake
from weighbridge.errors import NotFoundError, UnavailableError
from weighbridge.replicas.weights.prefetch import ASKED_MAX_S, IDLE_S, LOOK_S, Prefetcher
from weighbridge.runtimes.base import FetchStatus, ReplicaStatus, RuntimeState, Weights
from weighbridge.weights.manifest import FileEntry, Manifest

MANIFEST = Manifest((FileEntry("w", 10, "b" * 64),))
OLD = ("r1", "r2")


@dataclass
class Nodes:
    """A cluster whose nodes have come so far as `told` says."""

    told: list[FetchStatus] = field(default_factory=list)
    asked: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    away: bool = False

    async def list(self, selector: Mapping[str, str]) -> Sequence[ReplicaStatus]:
        if self.away:
            raise UnavailableError("The cluster is away.")
        return [
            ReplicaStatus(name, RuntimeState.RUNNING, selector, "i", node)
            for name, node in (("r1", "n1"), ("r2", "n2"), ("r3", "n3"))
        ]

    async def fetch(self, weights: Weights, nodes: Sequence[str]) -> Sequence[FetchStatus]:
        self.asked.append((weights.digest, tuple(nodes)))
        return self.told


class Clock:
    now_s = 100.0


def prefetcher(nodes: Nodes, manifest=lambda _: MANIFEST) -> Prefetcher:
    return Prefetcher(
        nodes,
        lambda digest, size: Weights(digest, "", size),
        manifest,
        monotonic=lambda: Clock.now_s,
        wake=Wake(),
    )


async def test_a_rollout_waits_until_every_node_of_its_old_replicas_has_the_weights() -> None:
    nodes = Nodes([FetchStatus("n1", False, "pulling 3.1 of 15.0 GB"), FetchStatus("n2", True, "")])
    one = prefetcher(nodes)
    assert one.fetching("d1", MANIFEST.digest, OLD) == "weights on their way"
    assert await one.reconcile() == LOOK_S
    assert nodes.asked == [(MANIFEST.digest, ("n1", "n2"))]
    words = "weights on their way: n1 pulling 3.1 of 15.0 GB"
    assert one.fetching("d1", MANIFEST.digest, OLD) == words
    nodes.told = [FetchStatus("n1", True, ""), FetchStatus("n2", True, "")]
    await one.reconcile()
    assert one.fetching("d1", MANIFEST.digest, OLD) == ""
    assert await one.reconcile() == IDLE_S
    assert len(nodes.asked) == 2


async def test_a_node_that_has_no_room_is_not_waited_for() -> None:
    nodes = Nodes([FetchStatus("n1", True, "No room (weights_no_room)")])
    one = prefetcher(nodes)
    assert one.fetching("d1", MANIFEST.digest, OLD)
    await one.reconcile()
    assert one.fetching("d1", MANIFEST.digest, OLD) == ""


async def test_a_cluster_that_is_away_is_waited_for() -> None:
    nodes = Nodes([FetchStatus("n1", True, "")], away=True)
    one = prefetcher(nodes)
    one.fetching("d1", MANIFEST.digest, OLD)
    await one.reconcile()
    words = "weights on their way: The cluster is away."
    assert one.fetching("d1", MANIFEST.digest, OLD) == words
    nodes.away = False
    await one.reconcile()
    assert one.fetching("d1", MANIFEST.digest, OLD) == ""


async def test_a_first_deployment_and_a_version_that_is_gone_wait_for_nothing() -> None:
    def gone(digest: str) -> Manifest:
        raise NotFoundError(digest)

    nodes = Nodes()
    assert prefetcher(nodes).fetching("d1", MANIFEST.digest, ()) == ""
    one = prefetcher(nodes, gone)
    one.fetching("d1", MANIFEST.digest, OLD)
    await one.reconcile()
    assert one.fetching("d1", MANIFEST.digest, OLD) == ""
    assert nodes.asked == []


async def test_a_rollout_that_asks_no_more_is_forgotten() -> None:
    nodes = Nodes([FetchStatus("n1", False, "")])
    one = prefetcher(nodes)
    one.fetching("d1", MANIFEST.digest, OLD)
    Clock.now_s += ASKED_MAX_S
    assert await one.reconcile() == IDLE_S
    assert nodes.asked == []
