"""A cap on bytes per second that several syncs share: each piece is told how long to wait for its turn."""

import threading
from collections.abc import Callable

BURST_S = 0.25
"""Idle time that may be made up for."""


class Throttle:
    """One per org. No cap when `bytes_per_s` is 0. Threads may share it."""

    def __init__(self, bytes_per_s: int, monotonic: Callable[[], float]) -> None:
        self._bytes_per_s = bytes_per_s
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._free_at = monotonic()

    def wait_s(self, count: int) -> float:
        """Account for `count` bytes just read; how long to wait before reading more."""
        if self._bytes_per_s == 0:
            return 0.0
        with self._lock:
            now = self._monotonic()
            self._free_at = max(self._free_at, now - BURST_S) + count / self._bytes_per_s
            return max(0.0, self._free_at - now)


class Throttles:
    """The throttle of each org, shared by all its syncs in this process."""

    def __init__(self, bytes_per_s: int, monotonic: Callable[[], float]) -> None:
        self._bytes_per_s = bytes_per_s
        self._monotonic = monotonic
        self._by_org: dict[str, Throttle] = {}

    def of(self, org_id: str) -> Throttle:
        made = Throttle(self._bytes_per_s, self._monotonic)
        return self._by_org.setdefault(org_id, made)
