"""Whether a new version answers worse than the one before it: counted requests in, a cause or None out. Pure."""

from dataclasses import dataclass, replace
from typing import Self

import msgspec

from weighbridge.endpoints.gate import GateOptions
from weighbridge.usage.model import VersionFigures


@dataclass(frozen=True, slots=True)
class GateLimits:
    """When a version counts as worse (reliability B3, row 7). Shares are of 1; a ratio is against the base.

    Both must be exceeded: the share or time itself, and its ratio to what the base shows. Without a base,
    or with fewer than `requests_min` requests on it, the shares alone decide, and `ttft_max_s` instead of the
    ratio of times.
    """

    requests_min: int = 50
    """Below this many requests of a version nothing is concluded; 0 turns the gate off."""
    events_min: int = 3
    """So many bad answers there must be in any case: one is no pattern."""
    errors_share: float = 0.02
    errors_ratio: float = 3.0
    empty_share: float = 0.05
    empty_ratio: float = 3.0
    ttft_min_s: float = 1.0
    """A time to the first token below this (at the 95th percentile) is never too long."""
    ttft_ratio: float = 3.0
    ttft_max_s: float = 60.0

    def of(self, options: GateOptions) -> Self:
        """Those of an endpoint: its own where it sets them."""
        own = msgspec.structs.asdict(options)
        return replace(self, **{name: one for name, one in own.items() if one is not None})


def verdict(
    target: tuple[int, VersionFigures],
    base: tuple[int, VersionFigures] | None,
    limits: GateLimits,
) -> str | None:
    """Why the version `target` (its number and figures) must not stay, or None."""
    seen = target[1]
    if not limits.requests_min or seen.requests < limits.requests_min:
        return None
    if base is not None and base[1].requests < limits.requests_min:
        base = None
    for what, share, ratio in (
        ("5xx", limits.errors_share, limits.errors_ratio),
        ("empty answers", limits.empty_share, limits.empty_ratio),
    ):
        bad, total = _counts(what, seen)
        if bad < limits.events_min or bad < share * total:
            continue
        against = ""
        if base is not None:
            base_bad, base_total = _counts(what, base[1])
            if base_total and bad * base_total < ratio * base_bad * total:
                continue
            against = f" against {_share(base_bad, base_total)} on version {base[0]}"
        return f"{what} {_share(bad, total)} on version {target[0]}{against}"
    return _slow(target, base, limits)


def _slow(
    target: tuple[int, VersionFigures],
    base: tuple[int, VersionFigures] | None,
    limits: GateLimits,
) -> str | None:
    number, seen = target
    if seen.ttft_count < limits.requests_min:
        return None
    words = (
        f"time to first token {seen.ttft_p95_s:.2f} s (95th percentile of {seen.ttft_count:,} requests) "
        f"on version {number}"
    )
    if base is None or base[1].ttft_count < limits.requests_min:
        too_slow = seen.ttft_p95_s > limits.ttft_max_s
        return f"{words}, more than {limits.ttft_max_s:g} s" if too_slow else None
    before = base[1]
    if seen.ttft_p95_s <= max(limits.ttft_min_s, limits.ttft_ratio * before.ttft_p95_s):
        return None
    return (
        f"{words} against {before.ttft_p95_s:.2f} s of {before.ttft_count:,} on version {base[0]}"
    )


def _counts(what: str, figures: VersionFigures) -> tuple[int, int]:
    """How many were bad, of how many: empty answers are counted among those that succeeded."""
    if what == "5xx":
        return figures.errors, figures.requests
    return figures.empty, figures.answered


def _share(bad: int, total: int) -> str:
    return f"{100 * bad / total if total else 0:.1f} % of {total:,} requests"
