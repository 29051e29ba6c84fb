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
    stream_keepalive_s: float = 15.0
    """A stream that has begun gets a comment when nothing else came for so long; infinity for none."""
    write_s: float = 30.0
    head_s: float = 10.0
    body_idle_s: float = 60.0
    keepalive_s: float = 75.0
    """Idle client connections; longer than a front proxy keeps its own, so that the proxy closes first."""
    discard_s: float = 5.0
    """For the rest of a body that was refused before its end."""
    drain_s: float = 30.0
    body_bytes_max: int = BODY_BYTES_MAX
    attempts_max: int = 3


HEAD_BYTES_MAX = 32 * 1024
FIELDS_MAX = 100
FIELD_NAME_CHARS_MAX = 256
TARGET_CHARS_MAX = 8190
CHUNK_LINE_BYTES_MAX = 256
"""A chunk's size with its extension; nobody needs extensions, so they are read over."""
TRAILER_BYTES_MAX = 4 * 1024
INTERIM_ANSWERS_MAX = 8
"""1xx answers of an upstream before its real one."""
AHEAD_BYTES_MAX = 64 * 1024
"""What a caller may send ahead of the answer it waits for (pipelining); then it is not read any more."""
DISCARD_BYTES_MAX = 2 * 1024 * 1024
"""What is read and thrown away of a body that was refused, so that the refusal arrives."""
WRITE_BUFFER_BYTES = 64 * 1024
"""Unsent bytes of one caller before its engine is no longer read from (G10)."""
CONTROL_BODY_BYTES_MAX = 1024 * 1024
"""Largest body that is passed on to the control plane."""
UPSTREAM_KEEPALIVE_S = 4.0
"""Below the 5 s after which engines close an idle connection."""
UPSTREAM_IDLE_MAX = 512
"""Idle connections kept for one replica."""
TAIL_S = 0.5
"""Wait for an engine to end its stream after `[DONE]`, so that its connection can be used again."""
