"""What a receipt's entries add up to: times per phase, the fewest routable replicas, requests drained and cut.

Computed by the server when it seals a receipt, and again by whoever checks one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

Payload = Mapping[str, object]

PHASES = ("queued", "start", "ready", "route", "drain", "stop", "bake")
"""queued: submitted → started. start: wished for → process. ready: process → ready. route: ready → every gateway
routes to it. drain: leaves the routes → its requests ended. stop: → process confirmed dead. bake: the finished
state → done."""
_BETWEEN = {
    "start": ("pending", "starting"),
    "ready": ("starting", "ready"),
    "route": ("ready", "routed"),
    "drain": ("draining", "stopping"),
    "stop": ("stopping", "stopped"),
}
EXTERNAL = ("requests", "held", "not_measured", "omitted_entries")
"""Members that the entries do not tell: they are measured elsewhere when the receipt is sealed."""


@dataclass(slots=True)
class ReplicaStory:
    """One replica as the entries tell of it; `times` by state, the first of each."""

    replica_id: str
    version: int
    times: dict[str, datetime] = field(default_factory=dict)
    last: str = ""
    digest: str | None = None
    in_flight: int | None = None
    cut: int | None = None


def moment(payload: Payload) -> datetime:
    return datetime.fromisoformat(str(payload["at"]))


def stories(payloads: Iterable[Payload]) -> dict[str, ReplicaStory]:
    """By replica id, in the order in which they appear."""
    found: dict[str, ReplicaStory] = {}
    for payload in payloads:
        if payload.get("event") != "replica":
            continue
        replica_id, state = str(payload["replica"]), str(payload["state"])
        story = found.setdefault(replica_id, ReplicaStory(replica_id, _count(payload, "version")))
        story.times.setdefault(state, moment(payload))
        if state not in {"adopted", "routed", "unrouted", "kept"}:
            story.last = state
        match payload:
            case {"digest": str(digest)}:
                story.digest = digest
        match payload:
            case {"state": "unrouted", "in_flight": int(count)}:
                story.in_flight = count
            case {"state": "stopping", "in_flight": int(count)} if "draining" in story.times:
                story.cut = count
                story.in_flight = count if story.in_flight is None else story.in_flight
    return found


def summarise(payloads: Sequence[Payload], external: Mapping[str, object]) -> dict[str, object]:
    """`external` holds the members of `EXTERNAL`. Figures nobody measured are None, never 0."""
    first = _event(payloads, "submitted") or {}
    started = _event(payloads, "started")
    ended = _event(payloads, "ended") or {}
    told = stories(payloads)
    moved = [one for one in told.values() if one.last != "" or one.times]
    return {
        "asked_by": first.get("asked_by"),
        "reference": first.get("reference"),
        "version": first.get("version"),
        "base_version": (started or {}).get("base_version"),
        "digest": first.get("digest"),
        "status": ended.get("status"),
        "floor": (started or {}).get("floor"),
        "routable_at_start": (started or {}).get("routable"),
        "routable_lowest": _lowest(payloads),
        "phases": _phases(payloads, moved),
        "drained": _total(moved, drained=True),
        "cut": _total(moved, drained=False),
        "replicas": [
            {
                "replica": one.replica_id,
                "version": one.version,
                "state": one.last,
                "digest_loaded": one.digest,
                "in_flight_at_drain": one.in_flight,
                "cut": one.cut,
            }
            for one in moved
        ],
        **{name: external.get(name) for name in EXTERNAL},
    }


def _event(payloads: Iterable[Payload], name: str) -> Payload | None:
    return next((one for one in payloads if one.get("event") == name), None)


def _count(payload: Payload, name: str) -> int:
    value = payload.get(name)
    return value if isinstance(value, int) else 0


def _lowest(payloads: Iterable[Payload]) -> int | None:
    """The fewest replicas that every gateway routed to, from start to end; a count stands in each entry."""
    seen: list[int] = []
    running = False
    for payload in payloads:
        running = running or payload.get("event") == "started"
        routable = payload.get("routable")
        if running and isinstance(routable, int):
            seen.append(routable)
        if payload.get("event") == "ended":
            break
    return min(seen, default=None)


def _phases(
    payloads: Sequence[Payload], told: Sequence[ReplicaStory]
) -> dict[str, dict[str, int] | None]:
    lengths: dict[str, list[timedelta]] = {name: [] for name in PHASES}
    for story in told:
        for phase, (begin, end) in _BETWEEN.items():
            if begin in story.times and end in story.times:
                lengths[phase].append(story.times[end] - story.times[begin])
    submitted, started = _event(payloads, "submitted"), _event(payloads, "started")
    ended = _event(payloads, "ended")
    if submitted is not None and started is not None:
        lengths["queued"].append(moment(started) - moment(submitted))
    if ended is not None and ended.get("status") == "done":
        settled = [
            moment(one)
            for one in payloads[: payloads.index(ended)]
            if one.get("event") == "progress" or one.get("state") == "draining"
        ]
        if settled:
            lengths["bake"].append(moment(ended) - max(settled))
    return {name: _spread(values) for name, values in lengths.items()}


def _spread(values: Sequence[timedelta]) -> dict[str, int] | None:
    if not values:
        return None
    ms = sorted(max(0, round(value / timedelta(milliseconds=1))) for value in values)
    return {"count": len(ms), "min_ms": ms[0], "median_ms": ms[len(ms) // 2], "max_ms": ms[-1]}


def _total(told: Sequence[ReplicaStory], *, drained: bool) -> int | None:
    """Requests in flight when the last gateway let go of a replica, less (or only) those cut at its deadline."""
    left = [one for one in told if "draining" in one.times and one.last != "draining"]
    if any(one.in_flight is None or one.cut is None for one in left):
        return None
    cut = sum(one.cut or 0 for one in left)
    return sum(one.in_flight or 0 for one in left) - cut if drained else cut
