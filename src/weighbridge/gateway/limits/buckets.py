"""Buckets that refill continuously, as pure arithmetic on what is used of them.

A bucket of limit L over a period of P seconds holds at most L and regains L/P each second. Kept is what is
used of it (0 is full), so that a limit may change at any time without losing what was used.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

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


WINDOWS: Final = tuple(
    Window(f"{what}-{period}", what == "tokens", period, period_s)
    for what in ("requests", "tokens")
    for period, period_s in (("minute", 60.0), ("hour", 3600.0), ("day", 86400.0))
)

_LINES: Final = (
    "x-ratelimit-limit-{0}: %d\r\nx-ratelimit-remaining-{0}: %d\r\nx-ratelimit-reset-{0}: %.3f\r\n"
)


class Bucket:
    """One limited window of a subject, with what stands as long as its limit does; `cell` is its place in a row."""

    __slots__ = (
        "cell", "counts_tokens", "limit", "place", "refill_per_s", "reset_s_per_use", "used", "window",
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


class Told:
    """What a caller is told of its limits: of each window the bucket with least left, of those that `subjects` have."""

    __slots__ = ("_lines", "_windows")

    def __init__(self, subjects: Iterable[Sequence[Bucket]]) -> None:
        windows: dict[Window, list[Bucket]] = {}
        for buckets in subjects:
            for bucket in buckets:
                windows.setdefault(bucket.window, []).append(bucket)
        self._windows = list(windows.values())
        self._lines = "".join([_LINES.format(window.name) for window in windows]).encode()

    def fields(self) -> bytes:
        """`x-ratelimit-limit-…`, `-remaining-…` and `-reset-…` (seconds) as an answer's head has them."""
        values: list[float] = []
        for buckets in self._windows:
            tightest, least = buckets[0], math.inf
            for bucket in buckets:
                left = bucket.limit - bucket.used
                if left < least:
                    tightest, least = bucket, left
            reset_s = tightest.used * tightest.reset_s_per_use
            values += (tightest.limit, max(0.0, least), reset_s)
        return self._lines % tuple(values)

    def headers(self) -> Mapping[str, str]:
        """As `fields`, by name."""
        lines = self.fields().decode().splitlines()
        return dict(line.split(": ", 1) for line in lines)
