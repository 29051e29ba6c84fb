"""Checks of requests and of what the gateway was told (G1, G3, G5, G6, G7)."""

from collections.abc import Iterator

from simulation.history.log import Event
from simulation.history.story import Story, at_end
from simulation.memory.store import Change
from simulation.world.gateway import RETRIES_MAX

SETTLE_S = 2.0
"""A replica that has been ready for this long is in the table of every worker that is not late."""
CUT_BY_RIGHT = ("probes in a row failed", "cut at the drain deadline", "serves", "its process")


@at_end("G1")
def g1_one_replica_of_one_version_answers(story: Story) -> Iterator[tuple[Event, str]]:
    versions = {
        event.facts["key"]: _changed(event)["version_number"]
        for event in story.log.of("row")
        if event.facts["table"] == "replicas" and "version_number" in _changed(event)
    }
    for event in story.log.of("sent"):
        story.counts["G1"] += 1
        replica = event.facts["replica"]
        if versions.get(replica) != event.facts["version"]:
            yield event, f"{replica} is not of version {event.facts['version']}"


@at_end("G3")
def g3_at_most_two_retries(story: Story) -> Iterator[tuple[Event, str]]:
    for event in story.log.of("request"):
        story.counts["G3"] += 1
        tries = event.facts["tries"]
        assert isinstance(tries, int)
        if tries > 3:
            yield event, f"request {event.facts['request']} was sent {tries} times"


def _changed(event: Event) -> dict[str, object]:
    changed = event.facts["changed"]
    assert isinstance(changed, dict)
    return changed


def _states(story: Story) -> Iterator[tuple[Event, object, object, str]]:
    """Each change of a replica's state: event, replica, state, reason."""
    for event in story.log.of("row"):
        if event.facts["table"] == "replicas" and "state" in _changed(event):
            change = event.facts["change"]
            assert isinstance(change, Change)
            reason = str((change.after or {}).get("reason"))
            yield event, event.facts["key"], _changed(event)["state"], reason


@at_end("G5")
def g5_a_drained_replica_gets_no_new_request(story: Story) -> Iterator[tuple[Event, str]]:
    """Unless a worker took longer to acknowledge the table than it is waited for."""
    draining: dict[object, float] = {}
    drained: dict[object, int] = {}
    for event, replica, state, reason in _states(story):
        if state == "draining":
            draining[replica] = event.at_s
        elif state == "stopping" and replica in draining:
            waited_s = event.at_s - draining[replica]
            patient = waited_s < story.limits.replica.unroute_ack_s
            if patient and "its process" not in reason:
                drained[replica] = event.number
    for event in story.log.of("sent"):
        story.counts["G5"] += 1
        if event.number > drained.get(event.facts["replica"], event.number):
            yield event, f"a request goes to {event.facts['replica']}, which has drained"


@at_end("G6")
def g6_a_drain_ends(story: Story) -> Iterator[tuple[Event, str]]:
    """Counted once all misfortune is over: without a controller nothing can end."""
    limits = story.limits.replica
    began: dict[object, float] = {}
    for event, replica, state, _ in _states(story):
        if state == "draining":
            began[replica] = event.at_s
        elif replica in began:
            story.counts["G6"] += 1
            took_s = event.at_s - max(began.pop(replica), story.calm_at_s)
            most_s = limits.unroute_ack_s + limits.drain_s + 20.0
            if took_s > most_s:
                yield event, f"{replica} drained for {took_s:.0f} s"


@at_end("G7")
def g7_no_request_fails_while_a_replica_is_ready(story: Story) -> Iterator[tuple[Event, str]]:
    """What fails by itself may cut its own streams; a rollout may not, and it may not leave a caller alone.

    A replica counts as ready when it is, by its row and in truth, and the table has named it for long enough to be
    every worker's.
    """
    ready: dict[object, float] = {}
    by_right: set[object] = set()
    for event in story.log.events:
        facts = event.facts
        if event.kind == "row" and facts["table"] == "replicas" and "state" in _changed(event):
            change = facts["change"]
            assert isinstance(change, Change)
            replica, state = facts["key"], _changed(event)["state"]
            reason = str((change.after or {}).get("reason"))
            if state != "ready":
                ready.pop(replica, None)
                if state == "failing" or any(words in reason for words in CUT_BY_RIGHT):
                    by_right.add(replica)
        elif event.kind == "routes":
            named = facts["replicas"]
            assert isinstance(named, list)
            ready = {name: ready.get(name, event.at_s) for name in named}
        elif event.kind in ("exited", "lost"):
            ready.pop(facts["replica"], None)
            if event.kind == "lost" or facts["reason"] != "stopped":
                by_right.add(facts["replica"])
        elif event.kind == "request":
            story.counts["G7"] += 1
            yield from _failed(event, ready, by_right)


def _failed(
    event: Event, ready: dict[object, float], by_right: set[object]
) -> Iterator[tuple[Event, str]]:
    """Whoever has met as many dead replicas as G3 allows, or ones that answer wrongly, is refused; a lost machine
    may have held that many.
    """
    facts = event.facts
    if facts["outcome"] == "cut" and facts["replica"] not in by_right:
        yield event, f"request {facts['request']} was cut when {facts['replica']} was stopped"
    if facts["outcome"] in ("unavailable", "unknown") and not facts["late"]:
        failure = facts["failure"]
        assert isinstance(failure, dict)
        tried, healthy = failure["tried"], failure["healthy"]
        if len(tried) > RETRIES_MAX and by_right.union(failure["wrong"]).issuperset(tried):
            return
        there = [
            name
            for name, since_s in ready.items()
            if event.at_s >= since_s + SETTLE_S and name not in tried and name not in by_right
        ]
        there = [name for name in there if name in healthy]
        if there:
            yield event, f"request {facts['request']} was {facts['outcome']} beside {there}"
