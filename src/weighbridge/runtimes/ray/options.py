"""How this server reaches its Ray cluster, and the environment that its driver gets."""

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from weighbridge.errors import SetupError
from weighbridge.runtimes.processes import MARK_VARIABLE
from weighbridge.settings import Settings

INHERITED = re.compile(
    r"PATH|HOME|USER|LANG|LC_.*|TZ|TMPDIR|LD_LIBRARY_PATH|PYTHONPATH|RAY_.*|" + MARK_VARIABLE
)
"""What the driver inherits: no secret of the server is among it."""


@dataclass(frozen=True, slots=True)
class RayOptions:
    """`token` is None where the cluster asks for none.

    `node_ip` names this machine's Ray node where Ray would guess another.
    """

    address: str
    namespace: str
    python: str
    token: str | None
    node_ip: str | None = None

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Raises SetupError when something that the cluster needs is not set."""
        if settings.ray_address is None:
            raise SetupError(
                "WEIGHBRIDGE_RUNTIME is ray, and WEIGHBRIDGE_RAY_ADDRESS does not say where: "
                "set it to the head's host:port."
            )
        token = settings.ray_auth_token
        if settings.ray_auth == "token" and token is None:
            raise SetupError(
                "A Ray cluster without authentication runs whatever anybody on its network sends. "
                "Set WEIGHBRIDGE_RAY_AUTH_TOKEN to the cluster's token (RAY_AUTH_MODE=token on "
                "its nodes), or WEIGHBRIDGE_RAY_AUTH=off if that network is yours alone."
            )
        return cls(
            address=settings.ray_address,
            namespace=settings.ray_namespace,
            python=settings.ray_python or sys.executable,
            token=None if token is None or settings.ray_auth == "off" else token.get_secret_value(),
            node_ip=settings.ray_node_ip,
        )

    def environment(self) -> Mapping[str, str]:
        """Of the driver. The token goes here, where only this user and root can read it."""
        inherited = {name: v for name, v in os.environ.items() if INHERITED.fullmatch(name)}
        auth = {"RAY_AUTH_MODE": "disabled"}
        if self.token is not None:
            auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}
        return inherited | auth | {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONUNBUFFERED": "1"}

    def arguments(self) -> list[str]:
        words = ["--address", self.address, "--namespace", self.namespace]
        return words if self.node_ip is None else [*words, "--node-ip", self.node_ip]
