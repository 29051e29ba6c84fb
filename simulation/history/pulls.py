"""Checks of weights that nodes pull: nobody is drained for what is still on its way to his node."""

from collections.abc import Container, Iterator
from dataclasses import dataclass, field

from simulation.history.log import Event
from simulation.history.story import Commit, Story, at_end, became, drained
from simulation.memory.store import Change
from simulation.memory.tables import Row
from weighbridge.replicas.weights.prefetch import ON_THEIR_WAY

WAIT_MAX_S = 45.0
"""For a controller that leads, the longest pull, and the looks at it."""
ENDED = ("exited", "lost", "forgotten")


@dataclass(slots=True)
class Nodes:
    """What the log has said of nodes so far."""

    node_of: dict[object, object] = field(default_factory=dict)
    """By replica that has not ended."""
    over: set[tuple[object, object]] = field(default_factory=set)
    """Nodes and the versions that they have, or have no room for."""
    lost: dict[object, float] = field(default_factory=dict)
    """When a node was lost, the last time."""

    def without(self, replica: Row, rollout: Row, since_s: float) -> object:
        """The node of this replica, if it has lived since then and does not have this rollout's weights."""
        node = self.node_of.get(replica["id"])
        if self.lost.get(node, 0.0) > since_s or (node, rollout["digest"]) in self.over:
            return None
        return node

    def follow(self, event: Event) -> None:
        facts = event.facts
        if event.kind == "started":
            self.node_of[facts["replica"]] = facts["node"]
        elif event.kind in ENDED:
            self.node_of.pop(facts["replica"], None)
        elif event.kind == "pulled":
            self.over.add((facts["node"], facts["digest"]))
        elif event.kind == "cache.lost":
            self.lost[facts["node"]] = event.at_s
            self.over = {pair for pair in self.over if pair[0] != facts["node"]}


@at_end("prefetch")
def nobody_is_drained_for_weights_that_are_on_their_way(
    story: Story,
) -> Iterator[tuple[Event, str]]:
    """Before its first drain a rollout has brought its version to the nodes of all that it replaces, as far as they
    live and have room; those are meant that were ready when it started and still are.
    """
    if not story.log.of("pull"):
        return
    nodes, told = Nodes(), iter(story.log.of("started", *ENDED, "pulled", "cache.lost"))
    began: dict[object, tuple[float, frozenset[object]]] = {}
    event = next(told, None)
    for commit in story.commits():
        while event is not None and event.number < commit.first.number:
            nodes.follow(event)
            event = next(told, None)
        for change in commit.of("deployments"):
            if became(change, "status") == "in_progress":
                ready = frozenset(
                    r["id"] for r in commit.after("replicas") if r["state"] == "ready"
                )
                began[change.key[0]] = commit.first.at_s, ready
        for rollout in _first_drains(commit, began):
            since_s, ready = began.pop(rollout["id"])
            for replica in commit.before("replicas"):
                if replica["id"] in ready and _replaced(replica, rollout):
                    story.counts["prefetch"] += 1
                    if node := nodes.without(replica, rollout, since_s):
                        words = f"{rollout['id']} drains while its weights are not on {node}"
                        yield commit.first, words


@at_end("prefetch")
def no_rollout_waits_for_weights_for_ever(story: Story) -> Iterator[tuple[Event, str]]:
    """Once all misfortune is over: what can be pulled is there soon, and the rest is not waited for."""
    waits: dict[object, float] = {}
    for event in story.log.of("row"):
        change = event.facts["change"]
        assert isinstance(change, Change)
        if change.table != "deployments" or change.after is None:
            continue
        since_s = waits.pop(change.key, None)
        if since_s is not None:
            story.counts["prefetch"] += 1
            if event.at_s > max(since_s, story.calm_at_s) + WAIT_MAX_S:
                yield event, f"{change.key[0]} has waited for weights since {since_s:.0f} s"
        if ON_THEIR_WAY in str(change.after["reason"]):
            waits[change.key] = event.at_s if since_s is None else since_s


def _first_drains(commit: Commit, began: Container[object]) -> Iterator[Row]:
    """The rollouts that take a first replica out of service, on their way forward."""
    for endpoint_id in {replica["endpoint_id"] for replica in drained(commit)}:
        rollout = commit.active(endpoint_id)
        if rollout is not None and rollout["status"] == "in_progress" and rollout["id"] in began:
            yield rollout


def _replaced(replica: Row, rollout: Row) -> bool:
    own = ("version_id", "settings_digest")
    return replica["state"] == "ready" and any(replica[name] != rollout[name] for name in own)
