"""How often something dear may be asked for, and how many such calls run at once; counts of this process alone."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from weighbridge.errors import LimitError, UnavailableError


@dataclass(slots=True)
class CallQuota:
    """`calls_max` calls of one org (or about one endpoint) within `window_s`; `running_max` of all at once."""

    calls_max: int
    window_s: float
    running_max: int
    _calls: dict[str, deque[float]] = field(default_factory=dict)
    _running: int = 0

    @contextmanager
    def turn(self, whose: str, now_s: float) -> Iterator[None]:
        """Around one call; LimitError `too_many_calls`, UnavailableError `busy`."""
        recent = self._recent(whose, now_s)
        if len(recent) >= self.calls_max:
            wait_s = recent[0] + self.window_s - now_s
            raise LimitError(
                f"This may be asked {self.calls_max} times in {self.window_s:.0f} s; ask again in {wait_s:.0f} s.",
                code="too_many_calls",
            )
        if self._running >= self.running_max:
            raise UnavailableError(
                "Others are asking the same; ask again in a moment.", code="busy"
            )
        recent.append(now_s)
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1

    def _recent(self, whose: str, now_s: float) -> deque[float]:
        for known in list(self._calls):
            calls = self._calls[known]
            while calls and calls[0] <= now_s - self.window_s:
                calls.popleft()
            if not calls:
                del self._calls[known]
        return self._calls.setdefault(whose, deque())
