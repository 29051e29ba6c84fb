"""Buckets that refill continuously, as pure arithmetic on what is used of them.

A bucket of limit L over a period of P seconds holds at most L and regains L/P each second. Kept is what is
used of it (0 is full), so that a limit may change at any time without losing what was used.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Level:
    """How one bucket stands, for the headers of an answer."""

    limit: int
    used: float
    reset_s: float

    @property
    def remaining(self) -> int:
        return max(0, math.floor(self.limit - self.used))


def rate_headers(levels: Mapping[str, Level]) -> Mapping[str, str]:
    """`x-ratelimit-limit-…`, `-remaining-…` and `-reset-…` (seconds) of each limited window."""
    headers = {}
    for name, level in levels.items():
        headers[f"x-ratelimit-limit-{name}"] = str(level.limit)
        headers[f"x-ratelimit-remaining-{name}"] = str(level.remaining)
        headers[f"x-ratelimit-reset-{name}"] = f"{level.reset_s:.3f}"
    return headers
