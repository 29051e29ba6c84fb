"""The record of one request, from its arrival to its end, and its log line; never a prompt in it."""

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

import msgspec

from weighbridge.clock import monotonic_s
from weighbridge.gateway.limits.quotas import Admission
from weighbridge.structs import Record
from weighbridge.usage.model import NO_VERSION

CLIENT_GONE: Final = 499
"""Logged status of a request whose caller left before the answer was whole."""
_ENCODER: Final = msgspec.json.Encoder()


class AccessRecord(Record):
    """Filled in on the way by the request's own visit; moments are monotonic but for `arrived_unix_s`.
    `answer_fields` belong in the head of its answer, whatever it is; each ends with CR LF.
    """

    request_id: str
    route: str
    started_s: float
    arrived_unix_s: float
    ended_s: float = 0.0
    org_id: str = ""
    key_id: str = ""
    endpoint_id: str = ""
    version: int | None = None
    replica_id: str = ""
    attempts: int = 0
    failed_version: int = NO_VERSION
    cut: bool = False
    status: int = CLIENT_GONE
    code: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    tokens_estimated: bool = False
    queued_s: float = 0.0
    held_s: float = 0.0
    asked_s: float | None = None
    first_byte_s: float | None = None
    admission: Admission | None = None
    answer_fields: bytes = b""


class _Line(Record):
    """A log line; like the other log events it ends with what they all have."""

    request_id: str
    route: str
    org_id: str
    key_id: str
    endpoint_id: str
    version: int | None
    replica_id: str
    attempts: int
    status: int
    code: str
    prompt_tokens: int
    completion_tokens: int
    tokens_estimated: bool
    queued_ms: float
    held_ms: float
    ttft_ms: float | None
    duration_ms: float
    event: str
    process: str
    level: str
    timestamp: datetime


class AccessLog:
    """Writes a line per request in the form of the other log events, many at a time.

    The logging library costs as much as the rest of a request; these lines have fixed fields. Every text in them is
    ours, from the tables: there is nothing of a caller's to cut out.
    """

    def __init__(
        self, descriptor: int, process: str, level: str, now: Callable[[], datetime]
    ) -> None:
        self._descriptor = descriptor
        self._process = process
        self._on = logging.getLevelName(level.upper()) <= logging.INFO
        self._now = now

    def write(self, ended: Sequence[AccessRecord]) -> None:
        if not self._on or not ended:
            return
        unix_offset_s = self._now().timestamp() - monotonic_s()
        text = _ENCODER.encode_lines([self._line(record, unix_offset_s) for record in ended])
        # A full log volume costs the lines, not the answers.
        with suppress(OSError):
            while text:
                text = text[os.write(self._descriptor, text) :]

    def _line(self, record: AccessRecord, unix_offset_s: float) -> _Line:
        started_s, first_s, ended_s = record.started_s, record.first_byte_s, record.ended_s
        return _Line(
            record.request_id,
            record.route,
            record.org_id,
            record.key_id,
            record.endpoint_id,
            record.version,
            record.replica_id,
            record.attempts,
            record.status,
            record.code,
            record.prompt_tokens,
            record.completion_tokens,
            record.tokens_estimated,
            _ms(record.queued_s),
            _ms(record.held_s),
            None if first_s is None else _ms(first_s - started_s),
            _ms(ended_s - started_s),
            "request",
            self._process,
            "info",
            datetime.fromtimestamp(ended_s + unix_offset_s, UTC),
        )


def _ms(seconds: float) -> float:
    """Milliseconds, to a tenth; `round` takes several times as long."""
    return int(seconds * 1e4 + 0.5) / 10
