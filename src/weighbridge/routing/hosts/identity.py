"""Who a host is: the name of its row, and whose loopback addresses it means."""

import ipaddress
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from weighbridge.clock import boot_id, new_short_id
from weighbridge.settings import DataDir

_ID_FILE = "gateway.host"
_ID_CHARS_MAX = 64


@dataclass(frozen=True, slots=True)
class HostIdentity:
    """`id` is one data directory's on one machine since its last start; `name` is for people."""

    id: str
    name: str


def host_identity(paths: DataDir) -> HostIdentity:
    """The same for all processes on this data directory. A copy of the directory elsewhere is another host."""
    own = _own_id(paths.run)
    name = f"{socket.gethostname()}:{paths.root}"
    return HostIdentity(f"{name}:{own}:{boot_id()}", name)


def place() -> str:
    """Names this machine's network as its processes see it: loopback addresses are good within one."""
    try:
        network = Path("/proc/self/ns/net").stat().st_ino
    except OSError:
        network = 0
    return f"{boot_id()}/{network}"


def is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _own_id(run: Path) -> str:
    """Made on first use; of two first users one wins, and both have the same."""
    run.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = run / _ID_FILE
    if not path.exists():
        temporary = run / f".{_ID_FILE}.{os.getpid()}"
        temporary.write_text(new_short_id(), encoding="ascii")
        try:
            # link, not rename: the second must not replace what the first has read.
            os.link(temporary, path)
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    return path.read_text(encoding="ascii").strip()[:_ID_CHARS_MAX]
