"""How long requests waited in line lately, by endpoint. Pure; time is an argument."""

from collections import deque

WINDOW_S = 60.0
"""What is longer ago says nothing of now."""
WAITS_MAX = 64
"""Waits that are remembered of one endpoint."""


class QueueTimes:
    """Of those who waited; who found a place at once is not counted."""

    def __init__(self) -> None:
        self._waits: dict[str, deque[tuple[float, float]]] = {}

    def add(self, endpoint_id: str, waited_s: float, now_s: float) -> None:
        waits = self._waits.get(endpoint_id)
        if waits is None:
            waits = self._waits[endpoint_id] = deque(maxlen=WAITS_MAX)
        waits.append((now_s, waited_s))

    def mean_s(self, endpoint_id: str, now_s: float) -> float:
        """0 where nobody has waited."""
        recent = [
            waited_s
            for at_s, waited_s in self._waits.get(endpoint_id, ())
            if now_s - at_s <= WINDOW_S
        ]
        return sum(recent) / len(recent) if recent else 0.0
