"""Buckets that refill continuously, as pure arithmetic on what is used of them.

A bucket of limit L over a period of P seconds holds at most L and regains L/P each second. Kept is what is
used of it (0 is full), so that a limit may change at any time without losing what was used.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from weighbridge.gateway.limits.ledger import USED
from weighbridge.routing.limits import UsageLimits


@dataclass(frozen=True, slots=True)
class Window:
    """One of the six buckets of a key or endpoint; `name` as in the `x-ratelimit-*` headers."""

    name: str
    counts_tokens: bool
    period: str
    period_s: float

    @property
    def member(self) -> str:
        return self.name.replace("-", "_")

    def limit(self, limits: UsageLimits) -> int | None:
        value: int | None = getattr(limits, self.member)
        return value

    def decayed(self, used: float, limit: int, elapsed_s: float) -> float:
        """What is still used after the refill of `elapsed_s`."""
        return max(0.0, used - limit / self.period_s * max(0.0, elapsed_s))

    def wait_s(self, used: float, limit: int, cost: float) -> float:
        """Seconds until `cost` fits; 0 when it fits now. A cost above the limit needs the whole bucket."""
        missing = used + min(cost, limit) - limit
        return max(0.0, missing) * self.period_s / limit

    def reset_s(self, used: float, limit: int) -> float:
        """Seconds until the bucket is full again."""
        return used * self.period_s / limit


WINDOWS = tuple(
    Window(f"{what}-{period}", what == "tokens", period, period_s)
    for what in ("requests", "tokens")
    for period, period_s in (("minute", 60.0), ("hour", 3600.0), ("day", 86400.0))
)


class Bucket:
    """One limited window of a subject, with what stands as long as its limit does; `cell` is its place in a row."""

    __slots__ = (
        "_lines", "cell", "counts_tokens", "limit", "place", "refill_per_s", "reset_s_per_use", "used", "window",
    )  # fmt: skip

    def __init__(self, place: int, window: Window, limit: int, used: float) -> None:
        self.place = place
        self.cell = USED + place
        self.window = window
        self.limit = limit
        self.used = used
        self.counts_tokens = window.counts_tokens
        self.refill_per_s = limit / window.period_s
        self.reset_s_per_use = window.period_s / limit
        self._lines = (
            f"x-ratelimit-limit-{window.name}: {limit}\r\n"
            f"x-ratelimit-remaining-{window.name}: %d\r\n"
            f"x-ratelimit-reset-{window.name}: %.3f\r\n"
        ).encode()

    def lines(self) -> bytes:
        """The three headers of this window, each ending with CR LF."""
        left = self.limit - self.used
        return self._lines % (max(0, left), self.used * self.reset_s_per_use)


def rate_fields(subjects: Iterable[Sequence[Bucket]]) -> bytes:
    """`x-ratelimit-limit-…`, `-remaining-…` and `-reset-…` (seconds) as an answer's head has them: of each window the
    bucket with least left.
    """
    found: dict[int, Bucket] = {}
    for buckets in subjects:
        for bucket in buckets:
            known = found.setdefault(bucket.place, bucket)
            if bucket.limit - bucket.used < known.limit - known.used:
                found[bucket.place] = bucket
    return b"".join([bucket.lines() for bucket in found.values()])


def rate_headers(subjects: Iterable[Sequence[Bucket]]) -> Mapping[str, str]:
    """As `rate_fields`, by name."""
    lines = rate_fields(subjects).decode().splitlines()
    return dict(line.split(": ", 1) for line in lines)
