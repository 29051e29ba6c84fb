"""Checks of replicas and their processes (R5, R15, R16, R19, D4)."""

from collections.abc import Iterable, Iterator

from simulation.history.log import Event
from simulation.history.story import Commit, Story, at_commits, at_end, became
from weighbridge.replicas.model import TRANSITIONS, ReplicaState

RACE_S = 35.0
"""A transaction that has read something may be as old as the longest pause of a process."""


@at_commits("B2", "replicas")
def b2_states_follow_the_table(story: Story, commit: Commit) -> Iterable[str]:
    for change in commit.of("replicas"):
        before, state = change.before, became(change, "state")
        if before is None:
            if state != "pending":
                yield f"{change.key[0]} begins as {state}"
        elif state is not None and state not in TRANSITIONS[ReplicaState(str(before["state"]))]:
            yield f"{change.key[0]} went from {before['state']} to {state}"


@at_commits("R15", "replicas")
def r15_ready_has_proven_itself_twice_in_a_row(story: Story, commit: Commit) -> Iterable[str]:
    for change in commit.of("replicas"):
        if became(change, "state") != "ready":
            continue
        replica = change.key[0]
        seen = [e for e in story.probes[replica] if e.number < commit.first.number]
        run: list[Event] = []
        for event in reversed(seen):
            if event.facts["outcome"] == "ready":
                run.append(event)
            elif not _unwritten(story, event):
                break
        if len(run) < story.limits.replica.probe_passes_min:
            yield f"{replica} is ready after {len(run)} passes in a row"
        elif not any(event.facts["generated"] for event in run):
            yield f"{replica} is ready without a token"


def _unwritten(story: Story, probe: Event) -> bool:
    """Whether a control plane died before what a probe had found was in the replica's row: then nobody knows it."""
    replica = probe.facts["replica"]
    for event in story.log.events[probe.number + 1 :]:
        if event.kind == "control.died":
            return True
        if event.kind == "row" and event.facts["key"] == replica:
            return False
        if event.kind == "probed" and event.facts["replica"] == replica:
            return False
    return False


def _questions(probes: object) -> list[str]:
    """What a set of acceptance probes asks."""
    assert isinstance(probes, list)
    return [probe["prompt"] or probe["messages"][-1]["content"] for probe in probes]


@at_commits("R15", "replicas")
def r15_ready_has_passed_its_acceptance_probes(story: Story, commit: Commit) -> Iterable[str]:
    for change in commit.of("replicas"):
        if became(change, "state") == "ready" and change.after is not None:
            replica = change.key[0]
            left = _unanswered(story, replica, change.after["probes"], commit.first.number)
            if left:
                yield f"{replica} is ready, and has not answered {left}"


def _unanswered(story: Story, replica: object, probes: object, number: int) -> list[str]:
    """Which of its probes a replica had not answered rightly by an event."""
    if not probes:
        return []
    right = {
        event.facts["question"]
        for event in story.log.of("examined")
        if event.number < number and event.facts["replica"] == replica and event.facts["right"]
    }
    return [question for question in _questions(probes) if question not in right]


@at_end("R15")
def r15_no_request_reaches_what_has_not_passed(story: Story) -> Iterator[tuple[Event, str]]:
    """Acceptance probes come before the first live token (issue 4)."""
    pinned: dict[object, object] = {}
    for event in story.log.of("row"):
        changed = event.facts["changed"]
        assert isinstance(changed, dict)
        if event.facts["table"] == "replicas" and changed.get("probes"):
            pinned[event.facts["key"]] = changed["probes"]
    asked: set[object] = set()
    for event in story.log.of("sent") if pinned else ():
        replica = event.facts["replica"]
        if replica in pinned and replica not in asked:
            story.counts["R15"] += 1
            left = _unanswered(story, replica, pinned[replica], event.number)
            if left:
                yield event, f"a request goes to {replica}, which has not answered {left}"
            asked.add(replica)


@at_commits("R15", "replicas")
def r15_a_new_replica_has_the_probes_of_now(story: Story, commit: Commit) -> Iterable[str]:
    """Those of its architecture and of its endpoint; a change in the same moment may be missed."""
    for change in commit.of("replicas"):
        row = change.after
        if change.before is not None or row is None:
            continue
        sets = [s for s in commit.after("acceptance_probes") if s["probes"]]
        if _probes_just_changed(story, commit.first):
            continue
        wanted = {question for s in sets for question in _questions(s["probes"])}
        given = set(_questions(row["probes"] or []))
        if given != wanted:
            yield f"{change.key[0]} is to answer {sorted(given)}, not {sorted(wanted)}"


def _probes_just_changed(story: Story, event: Event) -> bool:
    return any(e.at_s > 0 and event.at_s - RACE_S < e.at_s <= event.at_s for e in story.of_probes)


@at_commits("R16", "replicas")
def r16_a_mass_failure_kills_nobody_unseen(story: Story, commit: Commit) -> Iterable[str]:
    """Where most ready replicas fail at once, a failed generation has to agree."""
    for change in commit.of("replicas"):
        before, after = change.before, change.after
        if before is None or after is None or before["state"] != "ready":
            continue
        if became(change, "state") != "failing" or "probes in a row failed" not in str(
            after["reason"]
        ):
            continue
        ready = [
            r
            for r in commit.before("replicas")
            if r["state"] == "ready" and r["endpoint_id"] == before["endpoint_id"]
        ]
        failing = [r for r in ready if r["probe_failures"]]
        # A probe that hung left no answer of its own.
        last = story.last_probe(change.key[0], commit.first.number)
        answered = last is not None and "no answer" not in str(after["reason"])
        if len(failing) * 2 > len(ready) and answered and last and not last.facts["generated"]:
            yield f"{change.key[0]} is given up while {len(failing)} of {len(ready)} fail"


@at_commits("R19", "replicas")
def r19_dead_before_its_slot_is_given_away(story: Story, commit: Commit) -> Iterable[str]:
    """A launch that arrives only after its sender gave it up may run for a moment; it is found and stopped (D4)."""
    for change in commit.of("replicas"):
        if became(change, "state") not in ("stopped", "failed"):
            continue
        replica, number = change.key[0], commit.first.number
        if story.alive(replica, number) and not _late(story, replica, number):
            yield f"{replica} is final and its process runs"


def _late(story: Story, replica: object, number: int) -> bool:
    launches = [e for e in story.lives[replica] if e.kind == "launched" and e.number <= number]
    return bool(launches) and bool(launches[-1].facts.get("late"))


@at_end("R5")
def r5_the_routes_name_ready_replicas_alone(story: Story) -> Iterator[tuple[Event, str]]:
    """Each replica of a new table was ready at some moment since the table before it was written."""
    ready: set[object] = set()
    lately: set[object] = set()
    for event in story.log.of("row", "routes"):
        if event.kind == "row" and event.facts["table"] == "replicas":
            changed = event.facts["changed"]
            assert isinstance(changed, dict)
            state, key = changed.get("state"), event.facts["key"]
            if state == "ready":
                ready.add(key)
                lately.add(key)
            elif state is not None:
                ready.discard(key)
        elif event.kind == "routes":
            story.counts["R5"] += 1
            named = event.facts["replicas"]
            assert isinstance(named, list)
            strangers = [name for name in named if name not in lately]
            if strangers and not event.facts["stale"]:
                yield event, f"the table names {strangers}, which were not ready"
            lately = set(ready)


@at_end("D4")
def d4_a_replica_is_launched_for_a_row_that_asks(story: Story) -> Iterator[tuple[Event, str]]:
    """Its row may have been given up in the moment of the call."""
    states: dict[object, object] = {}
    for event in story.log.of("row", "launched"):
        if event.kind == "row":
            changed = event.facts["changed"]
            assert isinstance(changed, dict)
            if event.facts["table"] == "replicas" and "state" in changed:
                states[event.facts["key"]] = changed["state"]
        else:
            story.counts["D4"] += 1
            state = states.get(event.facts["replica"])
            allowed = ("pending", "stopping")
            if state not in allowed and not event.facts["late"]:
                yield event, f"{event.facts['replica']} is launched while its row is {state}"
