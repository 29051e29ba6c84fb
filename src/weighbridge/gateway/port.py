"""The public port and the locks on it: one gateway per data directory, one gateway per port.

Workers share a port by SO_REUSEPORT, which by itself would let a second installation join in silently.
"""

import errno
import fcntl
import json
import os
import socket
from contextlib import suppress
from pathlib import Path

from weighbridge.errors import SetupError
from weighbridge.routing.acks import process_start_ticks

BACKLOG = 1024


class DataDirLock:
    """Held by a gateway's parent for its life; raises SetupError when another has it."""

    def __init__(self, run: Path) -> None:
        path = run / "gateway.lock"
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._descriptor)
            raise SetupError(f"Another gateway already serves from {run}; stop it first") from error
        # Who holds it, in the form the supervisor reads to adopt a running gateway.
        holder = {"pid": os.getpid(), "start_ticks": process_start_ticks(os.getpid())}
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps(holder).encode(), 0)

    def close(self) -> None:
        os.close(self._descriptor)


class PortReservation:
    """A bound, never listening socket that keeps the port this gateway's, whichever of its workers live.

    It is bound without SO_REUSEPORT, so it fails where anything else listens, another gateway's workers
    included; the flag comes after, for our own workers. The abstract unix socket closes the gap in which
    two gateways have bound and neither listens yet: its name exists once per network namespace and goes
    with the process.
    """

    def __init__(self, host: str, port: int) -> None:
        """Port 0 takes a free one; see `port`. Raises SetupError with what to do."""
        self._socket = _socket(host)
        self._name = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.bind((host, port))
            self.port: int = self._socket.getsockname()[1]
            self._name.bind(f"\0weighbridge.port.{self.port}")
        except OSError as error:
            self.close()
            raise _setup_error(host, port, error) from error
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)

    def close(self) -> None:
        self._socket.close()
        self._name.close()


def listen(host: str, port: int) -> socket.socket:
    """A worker's own listening socket on the reserved port; raises SetupError."""
    listener = _socket(host)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _setup_error(host, port, error) from error
    listener.setblocking(False)
    return listener


def _socket(host: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        with suppress(OSError):
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    return made


def _setup_error(host: str, port: int, error: OSError) -> SetupError:
    if error.errno == errno.EADDRINUSE:
        return SetupError(
            f"Port {port} on {host} is in use by another program; stop it, or choose another with "
            "WEIGHBRIDGE_PORT (the public port) or WEIGHBRIDGE_PROBE_PORT (the probes)"
        )
    return SetupError(f"Cannot listen on {host} port {port}: {error.strerror}")
