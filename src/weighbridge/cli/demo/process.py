"""A child process of the demo: its log, free ports, and a stop that does not fail to stop."""

import os
import random
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from weighbridge.errors import SetupError

LOG_TAIL_CHARACTERS = 2000
FREE_PORTS = range(61_000, 65_536)
"""Beyond those that Linux gives away by itself, so that nobody gets one between the look and its use."""


class Child:
    """Started in a session of its own: Ctrl-C reaches the demo alone, which then stops things in order."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        log: Path,
        piped: bool = False,
    ) -> None:
        self.name = name
        self._log = log
        with log.open("ab") as sink:
            self.process = subprocess.Popen(
                argv,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else sink,
                stderr=sink,
                start_new_session=True,
                text=True,
            )

    def require_running(self) -> None:
        code = self.process.poll()
        if code is not None:
            raise SetupError(f"The {self.name} ended with code {code}. It said:\n{self.log_tail()}")

    def log_tail(self) -> str:
        return self._log.read_text(errors="replace")[-LOG_TAIL_CHARACTERS:].strip()

    def stop(self, *, grace_s: float) -> None:
        """Ask it to end; after `grace_s`, end it and what is left of its session."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(grace_s)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


def free_ports(count: int) -> Sequence[int]:
    """Ports nobody listens on at this moment, all different. Raises RuntimeError when there are not so many."""
    found: list[int] = []
    for port in random.SystemRandom().sample(FREE_PORTS, len(FREE_PORTS)):
        with socket.socket() as one, suppress(OSError):
            one.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError(f"fewer than {count} ports are free")
