"""The time in which somebody leads and nothing is broken on purpose: what a rollout needs, and is given in pieces."""

import time


class Calm:
    """Begun and ended by one thread, read by others."""

    def __init__(self) -> None:
        self._passed_s = 0.0
        self._since_s: float | None = None

    def begin(self) -> None:
        if self._since_s is None:
            self._since_s = time.monotonic()

    def end(self) -> None:
        if self._since_s is not None:
            self._passed_s += time.monotonic() - self._since_s
            self._since_s = None

    @property
    def passed_s(self) -> float:
        since_s = self._since_s
        return self._passed_s + (0.0 if since_s is None else time.monotonic() - since_s)
