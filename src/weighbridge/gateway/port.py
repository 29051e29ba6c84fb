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
from typing import Self

from weighbridge.errors import SetupError
from weighbridge.routing.acks import process_start_ticks

BACKLOG = 1024
HOLDER_BYTES = 80


class DataDirLock:
    """Held by a gateway's parent for its life, and free once every copy of its descriptor is closed."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @classmethod
    def take(cls, run: Path) -> Self:
        """Raises SetupError when another has it."""
        path = run / "gateway.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise SetupError(f"Another gateway already serves from {run}; stop it first") from error
        lock = cls(descriptor)
        lock.name_holder()
        return lock

    def name_holder(self) -> None:
        """Write that this process holds it, in the form the supervisor reads to adopt a running gateway."""
        holder = {"pid": os.getpid(), "start_ticks": process_start_ticks(os.getpid())}
        text = json.dumps(holder).encode()
        # One write, and blanks are no harm: a reader never finds less than a holder.
        os.pwrite(self.descriptor, text.ljust(HOLDER_BYTES), 0)
        os.ftruncate(self.descriptor, HOLDER_BYTES)

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class PortReservation:
    """A bound, never listening socket that keeps the port this gateway's, whichever of its workers live.

    It is bound without SO_REUSEPORT, so it fails where anything else listens, another gateway's workers
    included; the flag comes after, for our own workers. The abstract unix socket closes the gap in which
    two gateways have bound and neither listens yet: its name exists once per network namespace and goes
    with the process.
    """

    def __init__(self, host: str, port: int) -> None:
        """Port 0 takes a free one; see `port`. Raises SetupError with what to do."""
        self.socket = _socket(host)
        self.name = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.socket.bind((host, port))
            self.port: int = self.socket.getsockname()[1]
            self.name.bind(f"\0weighbridge.port.{self.port}")
        except OSError as error:
            self.close()
            raise _setup_error(host, port, error) from error
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)

    @classmethod
    def adopted(cls, bound: socket.socket, name: socket.socket) -> Self:
        """Of another process, which may hold it too."""
        made = cls.__new__(cls)
        made.socket, made.name, made.port = bound, name, bound.getsockname()[1]
        return made

    def is_for(self, host: str, port: int) -> bool:
        """Whether it is this one, or any will do (0)."""
        return self.socket.getsockname()[0] == host and port in (0, self.port)

    def close(self) -> None:
        self.socket.close()
        self.name.close()


def bound(host: str, port: int) -> socket.socket:
    """For one worker on the reserved port; nobody is connected to it before it listens. Raises SetupError."""
    made = _socket(host)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        made.bind((host, port))
    except OSError as error:
        made.close()
        raise _setup_error(host, port, error) from error
    made.setblocking(False)
    return made


def listen(host: str, port: int) -> socket.socket:
    """A listening socket of one's own on the reserved port; raises SetupError."""
    listener = bound(host, port)
    listener.listen(BACKLOG)
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
