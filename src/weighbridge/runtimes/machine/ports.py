"""The ports that a node gives to its engines, each to one at a time."""

import random
import socket
from collections import deque
from collections.abc import Collection
from pathlib import Path

from weighbridge.errors import SetupError
from weighbridge.runtimes.processes import HeldLock, hold_lock

PORTS = range(20_000, 32_768)
"""Below the range from which Linux takes the ports of outgoing connections."""
REMEMBERED_MAX = 256
TRIES_MAX = 1_000


class Ports:
    """Where several processes give out the ports of one machine, each locks what it gives, by a file in `locks`."""

    def __init__(self, host: str, locks: Path | None, chance: random.Random) -> None:
        self._host = host
        self._locks = locks
        self._chance = chance
        self._given: deque[int] = deque(maxlen=REMEMBERED_MAX)
        self._held: list[HeldLock] = []

    def pick(self, taken: Collection[int | None]) -> int:
        """A port that nobody listens on now and that was given to nobody lately; OSError when there is none.

        Another program may still take it before the engine does; the engine then ends, is reported,
        and its successor gets another one.
        """
        for _ in range(TRIES_MAX):
            port = self._chance.choice(PORTS)
            if port in taken or port in self._given or not self._claim(port):
                continue
            self._given.append(port)
            return port
        raise OSError(f"no free port among {PORTS.start}..{PORTS.stop - 1}")

    def _claim(self, port: int) -> bool:
        """Another process's engine may be about to listen on a port that is free to look at."""
        if not _can_bind(self._host, port):
            return False
        if self._locks is None:
            return True
        try:
            self._held.append(hold_lock(self._locks / str(port)))
        except SetupError:
            return False
        return True


def _can_bind(host: str, port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
