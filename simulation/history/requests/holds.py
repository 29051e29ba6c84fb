"""Checks of the hold at the gateway: within its limits of number, bytes and time, and nobody is forgotten (G11)."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import zip_longest

from simulation.history.log import Event
from simulation.history.story import Story, at_end

LOOK_S = 0.25
"""A line is looked at this often at least."""
_KINDS = ("held", "unheld", "worker.died", "request")


def _number(event: Event, name: str) -> float:
    value = event.facts[name]
    assert isinstance(value, int | float)
    return value


def _waited(event: Event) -> Mapping[str, object]:
    """What is known of a request that found no replica, where requests are held."""
    waited = event.facts.get("waited", {})
    assert isinstance(waited, Mapping)
    return waited


@at_end("G11")
def g11_lines_keep_to_their_limits(story: Story) -> Iterator[tuple[Event, str]]:
    """Of number per endpoint and of bytes, in each worker, at the end of every moment."""
    for limits in story.log.of("holding"):
        lines: defaultdict[object, dict[object, float]] = defaultdict(dict)
        events = story.log.of("held", "unheld", "worker.died")
        for event, following in zip_longest(events, events[1:]):
            line = lines[event.facts["worker"]]
            if event.kind == "held":
                line[event.facts["request"]] = _number(event, "size")
            elif event.kind == "unheld":
                line.pop(event.facts["request"], None)
            else:
                line.clear()
            if following is not None and following.at_s == event.at_s:
                continue
            story.counts["G11"] += 1
            count, size_bytes = len(line), sum(line.values())
            if count > _number(limits, "requests_max"):
                yield event, f"{count} requests are held by {event.facts['worker']}"
            if size_bytes > _number(limits, "bytes_max"):
                yield event, f"{size_bytes:.0f} bytes are held by {event.facts['worker']}"


@at_end("G11")
def g11_a_held_request_ends_in_time(story: Story) -> Iterator[tuple[Event, str]]:
    """In an answer, or in a refusal that says when to ask again, once it has waited as long as may be."""
    due_s: dict[object, float] = {}
    waiting: dict[object, Event] = {}
    hold_s = next((_number(event, "hold_s") for event in story.log.of("holding")), None)
    for event in story.log.of(*_KINDS) if hold_s is not None else ():
        request = event.facts.get("request")
        if event.kind == "held":
            due_s.setdefault(request, event.at_s + (hold_s or 0.0))
            waiting[request] = event
        elif event.kind == "unheld":
            began = waiting.pop(request, None)
            story.counts["G11"] += 1
            if event.at_s > due_s[request] + LOOK_S:
                yield (
                    event,
                    f"request {request} was held {event.at_s - due_s[request]:.1f} s too long",
                )
            if began is None:
                yield event, f"request {request} leaves a line that it is not in"
        elif event.kind == "worker.died":
            waiting = _living(waiting, event.facts["worker"])
        elif event.kind == "request":
            yield from _ended(event, waiting)
    for request, event in waiting.items():
        if story.log.events[-1].at_s > due_s[request] + LOOK_S:
            yield event, f"request {request} was held and forgotten"


def _living(waiting: dict[object, Event], died: object) -> dict[object, Event]:
    return {name: e for name, e in waiting.items() if e.facts["worker"] != died}


def _ended(event: Event, waiting: dict[object, Event]) -> Iterator[tuple[Event, str]]:
    facts = event.facts
    if facts["request"] in waiting:
        yield event, f"request {facts['request']} ends and still stands in line"
    waited = _waited(event)
    if waited.get("held") and not waited["retry_after_s"]:
        yield event, f"request {facts['request']} was held and is not told when to ask again"


@at_end("G11")
def g11_nobody_is_refused_for_whom_there_is_room(story: Story) -> Iterator[tuple[Event, str]]:
    """Where a replica is expected in time, and the line has a place. An outage may have begun with replicas that were
    in the table still.
    """
    for limits in story.log.of("holding"):
        lines: defaultdict[object, dict[object, float]] = defaultdict(dict)
        empty_s: dict[object, float] = {}
        outage_s: dict[object, float] = {}
        for event in story.log.of(*_KINDS, "emptied"):
            facts, line = event.facts, lines[event.facts["worker"]]
            waited = _waited(event)
            if event.kind == "held":
                line[facts["request"]] = _number(event, "size")
                outage_s.setdefault(facts["worker"], event.at_s)
            elif event.kind == "unheld":
                line.pop(facts["request"], None)
                if not line and facts["how"] == "proceeds":
                    outage_s.pop(facts["worker"], None)
            elif event.kind == "worker.died":
                line.clear()
                outage_s.pop(facts["worker"], None)
            elif event.kind == "emptied":
                empty_s[facts["worker"]] = event.at_s
            elif waited.get("hold_s"):
                story.counts["G11"] += 1
                hold_s, ready_in_s = waited["hold_s"], waited["ready_in_s"]
                size = waited["size"]
                assert isinstance(hold_s, float)
                assert isinstance(ready_in_s, float)
                assert isinstance(size, int)
                began_s = empty_s.get(facts["worker"], -hold_s)
                lately = event.at_s < min(began_s, outage_s.get(facts["worker"], began_s)) + hold_s
                room = len(line) < _number(limits, "requests_max") and (
                    sum(line.values()) + size <= _number(limits, "bytes_max")
                )
                if lately and room and ready_in_s < hold_s:
                    words = (
                        f"request {facts['request']} is refused beside {len(line)} that are held"
                    )
                    yield event, f"{words}, and a replica is expected in {ready_in_s:.1f} s"


@at_end("G11")
def g11_keys_take_turns(story: Story) -> Iterator[tuple[Event, str]]:
    """No key's request is let go before those keys have had a turn that waited when its last one was let go."""
    lines: defaultdict[object, dict[object, object]] = defaultdict(dict)
    owed: defaultdict[object, dict[object, set[object]]] = defaultdict(dict)
    for event in story.log.of("held", "unheld", "worker.died"):
        facts, worker = event.facts, event.facts["worker"]
        line, turns = lines[worker], owed[worker]
        if event.kind == "held":
            line[facts["request"]] = facts["key"]
            if facts["again"]:
                turns.pop(facts["key"], None)  # its replica failed it, so it is the next again
        elif event.kind == "worker.died":
            line.clear()
            turns.clear()
        elif (key := line.pop(facts["request"], None)) is not None:
            waiting = set(line.values())
            for others in turns.values():
                others.intersection_update(waiting)
            if facts["how"] == "proceeds":
                story.counts["G11"] += 1
                if behind := turns.get(key):
                    yield event, f"{key} has another turn before {sorted(map(str, behind))}"
                for others in turns.values():
                    others.discard(key)
                turns[key] = waiting - {key}
