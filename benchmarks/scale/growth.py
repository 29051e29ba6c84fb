"""How a figure grows with the fleet: the straight line that fits best, and how far from it a size lies."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Line:
    base: float
    per_endpoint: float
    deviation_percent: float
    """The largest distance of a size from the line, of the line's value there."""


def fit(values: Mapping[int, float]) -> Line:
    """Least squares of the values by number of endpoints."""
    count = len(values)
    mean_x, mean_y = sum(values) / count, sum(values.values()) / count
    spread = sum((x - mean_x) ** 2 for x in values)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in values.items()) / spread
    base = mean_y - slope * mean_x
    deviations = [abs(y / (base + slope * x) - 1) for x, y in values.items()]
    return Line(base, slope, max(deviations) * 100)
