"""One version on its way to a node: how much has come, at what rate, what holds it up, and its stop."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event, Lock

from weighbridge.weights.node.source import StoppedError, WeightSource

PULLING = "pulling"
"""How the reason of a replica begins whose weights are on their way."""
GB = 1e9


@dataclass(slots=True)
class Pull:
    """For one thread that brings it and any number that look. `size_bytes` is what was said of the version before."""

    digest: str
    size_bytes: int
    source: WeightSource
    monotonic: Callable[[], float] = time.monotonic
    came_bytes: int = 0
    brought_bytes: int = 0
    trouble: str = ""
    _began_s: float = 0.0
    _stopped: Event = field(default_factory=Event)
    _lock: Lock = field(default_factory=Lock)

    def begin(self, size_bytes: int) -> None:
        """Anew, when it is known what belongs to it."""
        with self._lock:
            self.size_bytes, self.came_bytes, self.brought_bytes = size_bytes, 0, 0
            self._began_s = self.monotonic()

    def found(self, count: int) -> None:
        """So many bytes were here already."""
        with self._lock:
            self.came_bytes += count

    def came(self, count: int) -> None:
        """So many bytes came; fewer than none when what came was not what it should be."""
        with self._lock:
            self.came_bytes += count
            self.brought_bytes += count
            self.trouble = ""

    def stop(self) -> None:
        self._stopped.set()

    def check(self) -> None:
        if self._stopped.is_set():
            raise StoppedError

    def wait(self, seconds: float) -> None:
        """Or until it is stopped, which raises StoppedError."""
        self._stopped.wait(seconds)
        self.check()

    @property
    def bytes_per_s(self) -> float:
        """Since it began; what was here before does not count."""
        elapsed_s = self.monotonic() - self._began_s
        return self.brought_bytes / elapsed_s if elapsed_s > 0 and self._began_s else 0.0

    def words(self) -> str:
        """As in "pulling 3.1 of 15.0 GB at 0.42 GB/s", and what holds it up."""
        of = f"{PULLING} {self.came_bytes / GB:.1f} of {self.size_bytes / GB:.1f} GB"
        if self.trouble:
            return f"{of}; {self.trouble}"
        rate = self.bytes_per_s
        return f"{of} at {rate / GB:.2f} GB/s" if rate else of
