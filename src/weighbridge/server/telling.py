"""What `up` tells a person of its services: few lines, and each one news."""

import os
import signal
from collections.abc import Callable, Iterable
from pathlib import Path

from weighbridge.server.services import ServiceEvent, ServiceEventKind

NAMES = {
    "agent": "node agent",
    "gateway": "gateway",
    "control": "control process",
    "weights": "weight server",
}


class Telling:
    """Call it with each event. Once every service of `names` is ready it says so, with `url`."""

    def __init__(
        self, names: Iterable[str], url: str, logs: Path, tell: Callable[[str], None]
    ) -> None:
        self._awaited = set(names)
        self._url = url
        self._logs = logs
        self._tell = tell
        self._is_ending = False

    def __call__(self, event: ServiceEvent) -> None:
        name = NAMES.get(event.service, event.service)
        match event.kind:
            case ServiceEventKind.ADOPTED:
                self._tell(f"Took over the {name}, which was running (process {event.pid}).")
            case ServiceEventKind.READY:
                self._ready(event.service, name)
            case ServiceEventKind.LATE:
                log = self._logs / f"{event.service}.log"
                self._tell(f"The {name} is not ready after {event.after_s:.0f} s; see {log}.")
            case ServiceEventKind.EXITED:
                self._exited(event, name)
            case ServiceEventKind.STOPPING if not self._is_ending:
                self._is_ending = True
                self._tell("Stopping; streams may finish first. Ctrl-C again cuts them.")
            case _:
                return

    def _ready(self, service: str, name: str) -> None:
        if service not in self._awaited:
            self._tell(f"The {name} is back.")
            return
        self._awaited.discard(service)
        if not self._awaited:
            self._tell(f"Weighbridge is ready: {self._url}  (Ctrl-C stops it)")

    def _exited(self, event: ServiceEvent, name: str) -> None:
        if event.exit_code == os.EX_CONFIG and event.service in self._awaited:
            self._is_ending = True  # it refuses to start; the error that follows says why
        else:
            self._tell(f"The {name} ended{_how(event.exit_code)}; it is started again.")


def _how(exit_code: int | None) -> str:
    """Unknown of a process that an earlier supervisor started."""
    if exit_code is None:
        return ""
    if exit_code < 0:
        return f", killed by {signal.Signals(-exit_code).name}"
    return f" with exit code {exit_code}"
