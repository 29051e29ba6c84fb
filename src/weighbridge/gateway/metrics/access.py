"""The record of one request, from its arrival to its end: logged once and counted; never a prompt in it."""

import asyncio
import json
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from weighbridge.gateway.limits.quotas import Admission
from weighbridge.gateway.metrics.figures import Figures
from weighbridge.telemetry.logs import redact

CLIENT_GONE = 499
"""Logged status of a request whose caller left before the answer was whole."""
HELD_LINES_MAX = 256


@dataclass(slots=True)
class AccessRecord:
    """Filled in on the way by the request's own visit. `answer_fields` belong in the head of its answer, whatever
    it is; each ends with CR LF.
    """

    request_id: str
    route: str
    started_s: float
    org_id: str = ""
    key_id: str = ""
    endpoint_id: str = ""
    version: int | None = None
    replica_id: str = ""
    attempts: int = 0
    status: int = CLIENT_GONE
    code: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    tokens_estimated: bool = False
    queued_s: float = 0.0
    held_s: float = 0.0
    first_byte_s: float | None = None
    admission: Admission | None = None
    answer_fields: bytes = b""


class AccessLog:
    """Writes a line per request in the form of the other log events, many at a time.

    The logging library costs as much as the rest of a request; these lines have fixed fields, so they are
    written from one pattern, those of one turn of the loop at once.
    """

    def __init__(
        self, descriptor: int, process: str, level: str, now: Callable[[], datetime]
    ) -> None:
        self._descriptor = descriptor
        self._process = json.dumps(process)
        self._on = logging.getLevelName(level.upper()) <= logging.INFO
        self._now = now
        self._lines: list[str] = []

    def finish(self, record: AccessRecord, figures: Figures, now_s: float) -> None:
        """Count this request and write its one line."""
        duration_s = now_s - record.started_s
        first_s = None if record.first_byte_s is None else record.first_byte_s - record.started_s
        figures.count(
            (record.route, record.endpoint_id, record.status),
            duration_s=duration_s,
            first_byte_s=first_s,
            prompt_tokens=record.prompt_tokens,
            completion_tokens=record.completion_tokens,
        )
        if self._on:
            self._write(record, duration_s, first_s)

    def flush(self) -> None:
        lines, self._lines = self._lines, []
        # A full log volume costs the lines, not the answers.
        with suppress(OSError):
            text = redact("".join(lines)).encode()
            while text:
                text = text[os.write(self._descriptor, text) :]

    def _write(self, record: AccessRecord, duration_s: float, first_s: float | None) -> None:
        if not self._lines:
            asyncio.get_running_loop().call_soon(self.flush)
        version = "null" if record.version is None else record.version
        first_ms = "null" if first_s is None else f"{first_s * 1000:.1f}"
        self._lines.append(
            f'{{"request_id": "{record.request_id}", "route": {_quoted(record.route)}, '
            f'"org_id": {_quoted(record.org_id)}, "key_id": {_quoted(record.key_id)}, '
            f'"endpoint_id": {_quoted(record.endpoint_id)}, "version": {version}, '
            f'"replica_id": {_quoted(record.replica_id)}, "attempts": {record.attempts}, '
            f'"status": {record.status}, "code": {_quoted(record.code)}, '
            f'"prompt_tokens": {record.prompt_tokens}, '
            f'"completion_tokens": {record.completion_tokens}, '
            f'"tokens_estimated": {"true" if record.tokens_estimated else "false"}, '
            f'"queued_ms": {record.queued_s * 1000:.1f}, "held_ms": {record.held_s * 1000:.1f}, '
            f'"ttft_ms": {first_ms}, "duration_ms": {duration_s * 1000:.1f}, '
            f'"event": "request", "process": {self._process}, "level": "info", '
            f'"timestamp": "{self._timestamp()}"}}\n'
        )
        if len(self._lines) >= HELD_LINES_MAX:
            self.flush()

    def _timestamp(self) -> str:
        return f"{self._now().astimezone(UTC).replace(tzinfo=None).isoformat()}Z"


@lru_cache(maxsize=4096)
def _quoted(text: str) -> str:
    return json.dumps(text)
