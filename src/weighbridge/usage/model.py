"""Usage events and their sums as values."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec

TTFT_BOUNDS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the histogram of times to first token; one more bucket holds what took longer."""
NO_VERSION = 0
"""Stands for the version of a request that no replica answered."""


class UsageEvent(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One finished request of a known key. `estimated`: the answer broke off, so its tokens were counted here."""

    ended_unix_s: float
    org_id: str
    key_id: str
    endpoint_id: str
    version: int
    status: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    estimated: bool
    duration_s: float
    queue_s: float
    ttft_s: float | None
    held_s: float = 0.0
    """How long it was held for want of a ready replica; part of neither `queue_s` nor an engine's time."""
    failed_version: int = NO_VERSION
    """Of the first replica that answered it wrongly, whoever answered in the end: a gate must see that too."""
    asked_s: float = 0.0
    """Until the replica that answered was asked: lines, holds and other replicas are not its version's doing."""
    cut: bool = False
    """Its replica was gone in mid-answer: the end of the replica tells whether its version is to blame."""


@dataclass(frozen=True, slots=True, order=True)
class UsageKey:
    """What a row of `usage_hourly` is of."""

    hour: datetime
    org_id: str
    key_id: str
    endpoint_id: str
    version: int
    status: int


@dataclass(slots=True)
class UsageSums:
    requests: int = 0
    estimated: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    duration_s: float = 0.0
    queue_s: float = 0.0
    ttft_count: int = 0
    ttft_s: float = 0.0
    ttft_buckets: list[int] = field(default_factory=lambda: [0] * (len(TTFT_BOUNDS_S) + 1))

    def add(self, event: UsageEvent) -> None:
        self.requests += 1
        self.estimated += event.estimated
        self.prompt_tokens += event.prompt_tokens
        self.cached_tokens += event.cached_tokens
        self.completion_tokens += event.completion_tokens
        self.duration_s += event.duration_s
        self.queue_s += event.queue_s
        if event.ttft_s is not None:
            self.ttft_count += 1
            self.ttft_s += event.ttft_s
            self.ttft_buckets[bucket_of(event.ttft_s)] += 1


@dataclass(frozen=True, slots=True)
class VersionFigures:
    """How the last requests of one version on one endpoint ended. `errors` are answers of 5xx."""

    requests: int = 0
    answered: int = 0
    errors: int = 0
    empty: int = 0
    """Answered without a token."""
    ttft_count: int = 0
    ttft_p95_s: float = 0.0
    """From a replica's side: without the time in line."""


def bucket_of(ttft_s: float) -> int:
    return sum(ttft_s > bound for bound in TTFT_BOUNDS_S)


def hour_of(unix_s: float) -> datetime:
    return datetime.fromtimestamp(unix_s, UTC).replace(minute=0, second=0, microsecond=0)


def summed(events: Iterable[UsageEvent]) -> dict[UsageKey, UsageSums]:
    sums: dict[UsageKey, UsageSums] = {}
    for event in events:
        key = UsageKey(
            hour_of(event.ended_unix_s),
            event.org_id,
            event.key_id,
            event.endpoint_id,
            event.version,
            event.status,
        )
        sums.setdefault(key, UsageSums()).add(event)
    return sums
