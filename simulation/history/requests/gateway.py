"""Checks of requests and of what the gateway was told (G1, G3, G5, G6, G7)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from simulation.gateways.requests import RETRIES_MAX
from simulation.history.log import Event
from simulation.history.requests.hosts import SLACK_S
from simulation.history.story import Story, at_end, became
from simulation.memory.store import Change
from simulation.memory.tables import Row

SETTLE_S = 2.0
"""A replica that has been ready for this long is in the table of every worker that is not late."""
PASS_S = 2.0
"""From what a reconciler sees to what it commits, at most, as long as nothing is in its way."""
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
    """Unless a worker took longer to acknowledge the table than it is waited for, or the lease of its host has ended
    since it took the table that it routes by.
    """
    draining: dict[object, float] = {}
    drained: dict[object, int] = {}
    for event, replica, state, reason in _states(story):
        if state == "draining":
            draining[replica] = event.at_s
        elif state == "stopping" and replica in draining:
            waited_s = event.at_s - draining[replica]
            patient = waited_s < story.limits.replica.unroute_ack_s - SLACK_S
            if patient and "its process" not in reason:
                drained[replica] = event.number
    for event in story.log.of("sent"):
        story.counts["G5"] += 1
        replica, worker = event.facts["replica"], event.facts["worker"]
        if event.number > drained.get(replica, event.number) and story.hosts.bound(worker, event):
            yield event, f"a request of {worker} goes to {replica}, which has drained"


@at_end("G5")
def g5_every_host_whose_lease_runs_is_waited_for(story: Story) -> Iterator[tuple[Event, str]]:
    """Before a new replica counts as routed; and before a drain begins, unless that takes longer than is waited for."""
    rows: dict[object, Row] = {}
    draining: dict[object, float] = {}
    for event in story.log.of("row") if story.hosts.host_of else ():
        change = event.facts["change"]
        assert isinstance(change, Change)
        key, after = change.key[0], change.after
        if change.table == "gateway_hosts":
            rows.pop(key, None)
            if after is not None:
                rows[key] = after
        elif change.table == "replicas" and after is not None:
            if became(change, "state") == "draining":
                draining[key] = event.at_s
            waited_s = event.at_s - draining.get(key, event.at_s)
            patient = waited_s < story.limits.replica.unroute_ack_s - SLACK_S
            if (generation := _taken_for_applied(change)) is not None and patient:
                yield from _not_waited_for(story, event, rows, generation)


def _taken_for_applied(change: Change) -> object:
    """The table that every gateway is said to have, for what becomes of this replica; None where it does not matter."""
    before, after = change.before, change.after
    if before is None or after is None:
        return None
    if became(change, "routed_at") is not None:
        return after["routed_generation"]
    ends = became(change, "state") == "stopping" and "its process" not in str(after["reason"])
    if before["state"] == "draining" and (ends or became(change, "drain_deadline") is not None):
        return before["unrouted_generation"]
    return None


def _not_waited_for(
    story: Story, event: Event, rows: Mapping[object, Row], generation: object
) -> Iterator[tuple[Event, str]]:
    for name, row in rows.items():
        story.counts["G5"] += 1
        applied = row["routes_generation"]
        assert isinstance(applied, int)
        assert isinstance(generation, int)
        # Who has come back just now may not have been there when it was decided.
        there = story.hosts.ran(str(name), event.at_s - PASS_S, event.at_s)
        if there and applied < generation:
            yield event, f"host {name} has table {applied}, and {generation} counts as everybody's"


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
    every worker's. On a host that has fallen behind it counts once the host has that table; until then none may be
    stopped that its own table names, as long as its lease runs.
    """
    fates = Fates(story.limits.replica.unroute_ack_s)
    for event in story.log.events:
        facts = event.facts
        fates.follow(event)
        if event.kind == "request":
            story.counts["G7"] += 1
            if _cut(story, event, fates):
                yield (
                    event,
                    f"request {facts['request']} was cut when {facts['replica']} was stopped",
                )
            yield from _failed(event, _known(story, event, fates), fates.by_right)


@dataclass(slots=True)
class Fates:
    """What has become of replicas so far: since when they are ready, and whose end may break off streams.

    `stopped` are all that were stopped, and when; `given_up` those of them that may have been stopped although a
    gateway had not let go, for it was waited for `patience_s` in vain.
    """

    patience_s: float
    ready: dict[object, float] = field(default_factory=dict)
    by_right: set[object] = field(default_factory=set)
    stopped: dict[object, float] = field(default_factory=dict)
    given_up: set[object] = field(default_factory=set)
    asked_by: dict[object, object] = field(default_factory=dict)
    """The table by which each request was sent the last time."""
    _left: dict[object, float] = field(default_factory=dict)
    """When they began to drain."""

    def follow(self, event: Event) -> None:
        facts = event.facts
        if event.kind == "row" and facts["table"] == "replicas" and "state" in _changed(event):
            self._moved(event)
        elif event.kind == "sent":
            self.asked_by[facts["request"]] = facts["generation"]
        elif event.kind == "routes":
            named = facts["replicas"]
            assert isinstance(named, list)
            self.ready = {name: self.ready.get(name, event.at_s) for name in named}
        elif event.kind in ("exited", "lost"):
            self.ready.pop(facts["replica"], None)
            if event.kind == "lost" or facts["reason"] != "stopped":
                self.by_right.add(facts["replica"])

    def _moved(self, event: Event) -> None:
        change, replica, state = event.facts["change"], event.facts["key"], _changed(event)["state"]
        assert isinstance(change, Change)
        reason = str((change.after or {}).get("reason"))
        if state != "ready":
            self.ready.pop(replica, None)
            if state == "failing" or any(words in reason for words in CUT_BY_RIGHT):
                self.by_right.add(replica)
        if state == "draining":
            self._left[replica] = event.at_s
        if state == "stopping":
            self.stopped[replica] = event.at_s
            if event.at_s >= self._left.get(replica, event.at_s) + self.patience_s - SLACK_S:
                self.given_up.add(replica)


def _cut(story: Story, event: Event, fates: Fates) -> bool:
    """Whether a stream was broken off at will. Those of a host whose lease has ended are not waited for, nor for ever
    those of one that does not let go.
    """
    replica, number, hosts = event.facts["replica"], event.facts["request"], story.hosts
    if event.facts["outcome"] != "cut" or replica in fates.by_right:
        return False
    if replica in fates.given_up and replica in hosts.named.get(fates.asked_by[number], ()):
        return False
    host = hosts.host_of.get(event.facts["worker"])
    at_s = fates.stopped.get(replica, event.at_s)
    return host is None or hosts.ran(host, at_s - PASS_S, at_s)


def _known(story: Story, event: Event, fates: Fates) -> Mapping[object, float]:
    """The ready replicas that this request's host must be able to ask, or have those that its table names."""
    worker, hosts = event.facts["worker"], story.hosts
    if worker not in hosts.host_of:
        return fates.ready
    if not hosts.bound(worker, event):
        return {}
    named = hosts.named.get(event.facts["generation"], frozenset())
    if named & (fates.stopped.keys() - fates.by_right - fates.given_up):
        return fates.ready
    return {name: since_s for name, since_s in fates.ready.items() if name in named}


def _failed(
    event: Event, ready: Mapping[object, float], by_right: set[object]
) -> Iterator[tuple[Event, str]]:
    """Whoever has met as many dead replicas as G3 allows, or ones that answer wrongly, is refused; a lost machine
    may have held that many.
    """
    facts = event.facts
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
