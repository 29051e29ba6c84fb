"""The named limits of the gateway's waits and sizes."""

from dataclasses import dataclass

from weighbridge.gateway.requests.content import BODY_BYTES_MAX


@dataclass(frozen=True, slots=True)
class Limits:
    """`request_max_s` counts from admission and ends every request (G6); the others bound one step of it."""

    request_max_s: float = 1800.0
    connect_s: float = 2.0
    first_byte_s: float = 600.0
    idle_s: float = 120.0
    write_s: float = 30.0
    body_idle_s: float = 60.0
    drain_s: float = 30.0
    body_bytes_max: int = BODY_BYTES_MAX
    header_bytes_max: int = 32 * 1024
    attempts_max: int = 3


CONTROL_BODY_BYTES_MAX = 1024 * 1024
"""Largest body that is passed on to the control plane."""
SERVER = "weighbridge"
"""What answers call their server; not the library and its version."""
KEEPALIVE_S = 75.0
"""Idle client connections; longer than a front proxy keeps its own, so that it closes first."""
UPSTREAM_KEEPALIVE_S = 4.0
"""Below the 5 s after which engines close an idle connection."""
