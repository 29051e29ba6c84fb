"""What the supervisor runs: services, what it tells of them, and when one is started again."""

import hashlib
import http.client
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit

from weighbridge.runtimes.wire import socket_address

SERVICE_ROLE = "service"
READY_CHECK_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class Service:
    """One process of the server. Its main calls `hold_lock(run_dir / "<name>.lock")` at its start.

    `ready_check` is called often and must answer within about a second. `env` is added to the
    supervisor's own environment. One that can take over from a living process of the same name, which runs with
    other settings, does so with `follow_argv` after its command; it has done it once it holds the lock, and the
    other one then ends by itself. Without them the other one is stopped first.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    stop_grace_s: float = 10.0
    follow_argv: Sequence[str] = ()
    ready_check: Callable[[], bool] | None = None


class ServiceEventKind(StrEnum):
    STARTED = "started"
    ADOPTED = "adopted"
    READY = "ready"
    LATE = "late"
    EXITED = "exited"
    STOPPING = "stopping"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class ServiceEvent:
    """`after_s` is measured from the start of what the event ends: a start, a life, a stop."""

    kind: ServiceEventKind
    service: str
    pid: int
    after_s: float = 0.0
    exit_code: int | None = None


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """Back-off doubles with each exit in a row; a life of `healthy_s` ends the row."""

    delay_min_s: float = 0.1
    delay_max_s: float = 5.0
    healthy_s: float = 10.0
    exits_max: int = 5
    window_s: float = 30.0

    def delay_s(self, exits_s: Sequence[float]) -> float:
        """`exits_s` are the times of the exits in this row, the last one included."""
        return min(self.delay_max_s, self.delay_min_s * 2.0 ** min(len(exits_s) - 1, 16))

    def is_hopeless(self, exits_s: Sequence[float], now_s: float) -> bool:
        recent = [exit_s for exit_s in exits_s if now_s - exit_s <= self.window_s]
        return len(recent) >= self.exits_max


def fingerprint(service: Service, version: str) -> str:
    """Changes with the command, with the settings it is given and with the version of the code."""
    settings = sorted(service.env.items())
    words = [version, *service.argv, "", *(f"{name}={value}" for name, value in settings)]
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:16]


def answers_http(url: str) -> bool:
    """Whether a GET of `url` is answered with 2xx; for ready checks."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=READY_CHECK_TIMEOUT_S)
    try:
        connection.request("GET", parts.path or "/")
        return connection.getresponse().status // 100 == 2
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def accepts_unix(path: Path) -> bool:
    """Whether somebody listens on the unix socket; for ready checks."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(READY_CHECK_TIMEOUT_S)
        try:
            with socket_address(path) as address:
                probe.connect(address)
        except OSError:
            return False
    return True
