"""A receipt as lanes: what each replica was at which time, and how many were routable. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from weighbridge.sdk.receipts.summary import Payload, moment

PHASES: Mapping[str, tuple[str, str]] = {
    "pending": ("·", "waits for a place"),
    "starting": ("-", "starts and loads"),
    "warming": ("=", "is probed"),
    "ready": ("▒", "ready, not yet routed everywhere"),
    "routed": ("█", "serves"),
    "draining": ("░", "drains"),
    "stopping": ("~", "is stopped"),
    "failing": ("x", "has failed, is stopped"),
}
"""A phase's letter in the terminal, and what it means."""
_ENDS = {"stopped": "stopped", "failed": "failed", "lost": "lost"}
_MARKS = {"adopted", "unrouted"}


@dataclass(frozen=True, slots=True)
class Span:
    begin_s: float
    end_s: float
    phase: str


@dataclass(frozen=True, slots=True)
class Lane:
    """One replica; `end` says how it ended, empty while it lives."""

    replica_id: str
    version: int
    spans: tuple[Span, ...]
    end: str
    end_s: float


@dataclass(frozen=True, slots=True)
class Timeline:
    """Seconds since the rollout started, for a queue may be long. `routable` holds each change of the count."""

    length_s: float
    started_s: float | None
    ended_s: float | None
    lanes: tuple[Lane, ...]
    routable: tuple[tuple[float, int], ...]

    def routable_lowest(self, begin_s: float, end_s: float) -> int | None:
        """The fewest in [begin_s, end_s); None before the first count."""
        before = [count for at_s, count in self.routable if at_s <= begin_s][-1:]
        within = [count for at_s, count in self.routable if begin_s < at_s < end_s]
        return min(before + within, default=None)


def timeline(payloads: Sequence[Payload]) -> Timeline:
    if not payloads:
        return Timeline(0.0, None, None, (), ())
    # A seal may come long after the last event; it is no part of the picture.
    told = [one for one in payloads if one.get("event") != "sealed"] or list(payloads)
    began = moment(next((one for one in told if one.get("event") == "started"), told[0]))

    def seconds(payload: Payload) -> float:
        return (moment(payload) - began).total_seconds()

    length_s = max(0.001, *(seconds(one) for one in told))
    marks = {str(one["event"]): max(0.0, seconds(one)) for one in reversed(told)}
    started_s = marks.get("started")
    lanes: dict[str, Lane] = {}
    for one in told:
        if one.get("event") != "replica" or one.get("state") in _MARKS:
            continue
        name, state = str(one["replica"]), str(one["state"])
        lane = lanes.get(name)
        if lane is None:
            lane = _first(one, state, seconds(one), started_s or 0.0)
        lanes[name] = _step(lane, state, seconds(one))
    return Timeline(
        length_s,
        started_s,
        marks.get("ended"),
        tuple(_close(lane, length_s) for lane in lanes.values()),
        tuple(
            (max(0.0, seconds(one)), count)
            for one in told
            if isinstance(count := one.get("routable"), int) and one.get("event") != "submitted"
        ),
    )


def _first(payload: Payload, state: str, at_s: float, started_s: float) -> Lane:
    version = payload.get("version")
    lane = Lane(str(payload["replica"]), version if isinstance(version, int) else 0, (), "", 0.0)
    if state == "pending":
        return lane
    # It was there before this rollout, and served.
    return replace(lane, spans=(Span(min(started_s, at_s), at_s, "routed"),))


def _step(lane: Lane, state: str, at_s: float) -> Lane:
    spans = lane.spans
    if spans:
        spans = (*spans[:-1], replace(spans[-1], end_s=at_s))
    if state in _ENDS:
        return replace(lane, spans=spans, end=_ENDS[state], end_s=at_s)
    return replace(lane, spans=(*spans, Span(at_s, at_s, state)))


def _close(lane: Lane, length_s: float) -> Lane:
    if lane.end or not lane.spans:
        return lane
    last = replace(lane.spans[-1], end_s=length_s)
    return replace(lane, spans=(*lane.spans[:-1], last), end_s=length_s)
