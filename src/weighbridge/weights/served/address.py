"""Where the weight server listens, and where nodes find it."""

import socket
from urllib.parse import urlsplit

from weighbridge.errors import SetupError
from weighbridge.settings import Settings

ANYWHERE = ("0.0.0.0", "::")


def weights_host(settings: Settings) -> str:
    """The address to listen on: as set, else this machine's on the way to the cluster's head."""
    if settings.weights_host is not None:
        return settings.weights_host
    if settings.ray_node_ip is not None:
        return settings.ray_node_ip
    if settings.ray_address is None:
        return "127.0.0.1"
    head = urlsplit(f"//{settings.ray_address}")
    try:
        return _address_towards(head.hostname or "", head.port or 0)
    except OSError as error:
        raise SetupError(
            f"No address of this machine leads to {settings.ray_address} ({error.strerror or error}): set "
            "WEIGHBRIDGE_WEIGHTS_HOST to the one that the nodes reach.",
            code="weights_host",
        ) from error


def weights_url(settings: Settings) -> str:
    """As set, else made of the address that the server listens on. Raises SetupError as above."""
    if settings.weights_url is not None:
        return settings.weights_url.rstrip("/")
    host = weights_host(settings)
    if host in ANYWHERE:
        raise SetupError(
            f"The weight server listens on {host}: set WEIGHBRIDGE_WEIGHTS_URL to where nodes reach it.",
            code="weights_url",
        )
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.weights_port}"


def _address_towards(host: str, port: int) -> str:
    """Of this machine, as the kernel would choose it; nothing is sent."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(address)
        return str(probe.getsockname()[0])
