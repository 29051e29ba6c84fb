"""What the threads of one sync share: a sign of life, a count of bytes, and the order to stop."""

import threading
from collections.abc import Callable


class Pulse:
    """What the threads of one sync share: bytes done, when the last one came, and the order to stop."""

    def __init__(self, monotonic: Callable[[], float], *, bytes_done: int = 0) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._cause: Exception | None = None
        self._last_beat = monotonic()
        self._bytes_done = bytes_done
        self._retries = 0
        self._bytes_received = 0
        self._slowdowns = 0
        self.received = False

    @property
    def bytes_done(self) -> int:
        return self._bytes_done

    @property
    def retries(self) -> int:
        return self._retries

    def add_retry(self) -> None:
        with self._lock:
            self._retries += 1

    @property
    def bytes_received(self) -> int:
        """From the source, kept or not; what a parallelism is judged by."""
        return self._bytes_received

    @property
    def slowdowns(self) -> int:
        """How often the source has asked for fewer requests."""
        return self._slowdowns

    def now(self) -> float:
        return self._monotonic()

    def idle_s(self) -> float:
        return self._monotonic() - self._last_beat

    def beat(self, count: int = 0) -> None:
        """A sign of life of the source, with `count` bytes of an object's content."""
        self._last_beat = self._monotonic()
        self.received = True
        if count:
            with self._lock:
                self._bytes_received += count

    def slow_down(self) -> None:
        with self._lock:
            self._slowdowns += 1

    def add_done(self, count: int) -> None:
        with self._lock:
            self._bytes_done += count

    def set_done(self, count: int) -> None:
        with self._lock:
            self._bytes_done = count

    def stop(self, cause: Exception) -> None:
        """Every thread raises `cause` at its next step, within a chunk or a pause. The first cause stays."""
        with self._lock:
            self._cause = self._cause or cause
        self._stopped.set()

    def check(self) -> None:
        if self._stopped.is_set() and self._cause is not None:
            raise self._cause

    def pause(self, seconds: float) -> None:
        self._stopped.wait(seconds)
        self.check()
