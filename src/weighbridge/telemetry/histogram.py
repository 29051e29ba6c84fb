"""How long something took, counted into buckets as Prometheus reads them."""

import threading
from collections.abc import Iterator
from itertools import accumulate


class Histogram:
    """Of this process alone; it begins at nothing with each start, as a counter may. Threads may share it."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        """`bounds` rise; what is more than the last counts as well."""
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._lock = threading.Lock()

    def note(self, value: float) -> None:
        bucket = next((n for n, bound in enumerate(self._bounds) if value <= bound), -1)
        with self._lock:
            self._counts[bucket] += 1
            self._sum += value

    def lines(self, name: str) -> Iterator[str]:
        """In the text format 0.0.4."""
        with self._lock:
            totals, value = list(accumulate(self._counts)), self._sum
        yield f"# TYPE {name} histogram"
        for bound, total in zip([*map(str, self._bounds), "+Inf"], totals, strict=True):
            yield f'{name}_bucket{{le="{bound}"}} {total}'
        yield f"{name}_sum {round(value, 6)}"
        yield f"{name}_count {totals[-1]}"
