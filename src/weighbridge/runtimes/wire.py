"""What a ProcessRuntime and its node agent say to each other: one JSON line each way per call."""

import contextlib
import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from weighbridge.errors import (
    InvalidError,
    LimitError,
    UnavailableError,
    WeighbridgeError,
)
from weighbridge.runtimes.base import FetchStatus, NodeInfo, ReplicaSpec, ReplicaStatus, Weights

REQUEST_BYTES_MAX = 1024 * 1024
REPLY_BYTES_MAX = 32 * 1024 * 1024
LABELS_BYTES_MAX = 4096
LOG_TAIL_BYTES_MAX = 1024 * 1024
LOG_BYTES_MIN = 4096
GRACE_S_MAX = 3600.0
BACKLOG = 64
SOCKET_PATH_BYTES_MAX = 107
"""Of a socket's address (unix(7))."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,126}")


class Launch(msgspec.Struct, tag="launch", tag_field="call", frozen=True):
    spec: ReplicaSpec
    epoch: int = 0
    """Of the caller's lease; 0: the caller leads nobody. Whoever has heard of a higher one refuses."""


class List(msgspec.Struct, tag="list", tag_field="call", frozen=True):
    selector: Mapping[str, str]
    epoch: int = 0


class Stop(msgspec.Struct, tag="stop", tag_field="call", frozen=True):
    name: str
    grace_s: float
    epoch: int = 0


class Forget(msgspec.Struct, tag="forget", tag_field="call", frozen=True):
    name: str
    epoch: int = 0


class Logs(msgspec.Struct, tag="logs", tag_field="call", frozen=True):
    name: str
    tail_bytes: int


class Capacity(msgspec.Struct, tag="capacity", tag_field="call", frozen=True):
    pass


class Fetch(msgspec.Struct, tag="fetch", tag_field="call", frozen=True):
    """Only of a cluster: bring a version to these nodes, ahead of the replicas that will need it there."""

    weights: Weights
    nodes: Sequence[str]
    epoch: int = 0


Request = Launch | List | Stop | Forget | Logs | Capacity | Fetch


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """One of the members answers the call; `error_code` is set when it was refused."""

    error_code: str = ""
    error_message: str = ""
    replicas: Sequence[ReplicaStatus] = ()
    nodes: Sequence[NodeInfo] = ()
    fetches: Sequence[FetchStatus] = ()
    text: str = ""


def refusal(error: WeighbridgeError) -> Reply:
    return Reply(error_code=error.code, error_message=error.message)


def raise_refusal(reply: Reply) -> None:
    if reply.error_code:
        classes = (InvalidError, LimitError)
        kind = next((c for c in classes if c.code == reply.error_code), UnavailableError)
        raise kind(reply.error_message)


def check_spec(spec: ReplicaSpec) -> None:
    """Raises InvalidError, naming the replica and never its secrets."""
    if not NAME.fullmatch(spec.name):
        raise InvalidError(f"replica name {spec.name[:80]!r} is not of the form {NAME.pattern}")
    words = [*spec.argv, *spec.env, *spec.env.values(), *spec.secrets, *spec.secrets.values()]
    if not spec.argv or any("\0" in word for word in words):
        raise InvalidError(f"replica {spec.name} has no command, or a NUL byte in it")
    if any("=" in name or not name for name in (*spec.env, *spec.secrets)):
        raise InvalidError(f"replica {spec.name} has a variable without a proper name")
    if len(msgspec.json.encode(spec.labels)) > LABELS_BYTES_MAX:
        raise InvalidError(f"replica {spec.name} has more than {LABELS_BYTES_MAX} bytes of labels")
    if not 0 <= spec.grace_s <= GRACE_S_MAX:
        raise InvalidError(f"replica {spec.name}: grace_s is outside 0..{GRACE_S_MAX:.0f}")
    if spec.log_bytes_max < LOG_BYTES_MIN:
        raise InvalidError(f"replica {spec.name}: log_bytes_max is below {LOG_BYTES_MIN}")


@contextlib.contextmanager
def socket_address(path: Path) -> Iterator[str]:
    """An address for `path` that fits into a socket's, however deep the directory lies."""
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def private_listener(path: Path) -> socket.socket:
    """A unix socket that only our own user can reach, in the place of one that a dead process left.

    The caller holds the lock of the service whose socket this is.
    """
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        with socket_address(path) as address:
            listener.bind(address)
    finally:
        os.umask(mask)
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener
