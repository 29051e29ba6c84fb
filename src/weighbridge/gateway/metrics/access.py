"""The record of one request, from its arrival to its end: logged once and counted; never a prompt in it."""

import asyncio
import json
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

from msgspec import Struct

from weighbridge.clock import monotonic_s
from weighbridge.gateway.limits.quotas import Admission
from weighbridge.gateway.metrics.figures import Figures
from weighbridge.usage.model import NO_VERSION

CLIENT_GONE = 499
"""Logged status of a request whose caller left before the answer was whole."""
HELD_LINES_MAX = 256
HELD_S = 0.05
"""How long a line may wait to be written together with others."""
_NAMES_KEPT_MAX = 4096


class AccessRecord(Struct):
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


class AccessLog:
    """Writes a line per request in the form of the other log events, many at a time.

    The logging library costs as much as the rest of a request; these lines have fixed fields, so they are
    written from one pattern. Every text in them is ours, from the tables: there is nothing of a caller's to cut out.
    """

    def __init__(
        self, descriptor: int, process: str, level: str, now: Callable[[], datetime]
    ) -> None:
        self._descriptor = descriptor
        self._process = json.dumps(process)
        self._on = logging.getLevelName(level.upper()) <= logging.INFO
        self._now = now
        self._ended: list[tuple[AccessRecord, float]] = []
        self._second = 0
        self._second_text = ""

    def finish(self, record: AccessRecord, figures: Figures, now_s: float) -> None:
        """Count this request and write its one line. The record must not change any more."""
        started_s, first_s = record.started_s, record.first_byte_s
        figures.count(
            (record.route, record.endpoint_id, record.status),
            now_s - started_s,
            None if first_s is None else first_s - started_s,
            record.prompt_tokens,
            record.completion_tokens,
        )
        if self._on:
            ended = self._ended
            if not ended:
                asyncio.get_running_loop().call_later(HELD_S, self.flush)
            ended.append((record, now_s))
            if len(ended) >= HELD_LINES_MAX:
                self.flush()

    def flush(self) -> None:
        ended, self._ended = self._ended, []
        if not ended:
            return
        unix_offset_s = self._now().timestamp() - monotonic_s()
        text = "".join(
            [self._line(record, now_s, now_s + unix_offset_s) for record, now_s in ended]
        ).encode()
        # A full log volume costs the lines, not the answers.
        with suppress(OSError):
            while text:
                text = text[os.write(self._descriptor, text) :]

    def _line(self, record: AccessRecord, now_s: float, unix_s: float) -> str:
        version = "null" if record.version is None else record.version
        started_s, first_s = record.started_s, record.first_byte_s
        first_ms = "null" if first_s is None else f"{(first_s - started_s) * 1000:.1f}"
        quoted = _QUOTED
        return (
            f'{{"request_id": "{record.request_id}", "route": {quoted[record.route]}, '
            f'"org_id": {quoted[record.org_id]}, "key_id": {quoted[record.key_id]}, '
            f'"endpoint_id": {quoted[record.endpoint_id]}, "version": {version}, '
            f'"replica_id": {quoted[record.replica_id]}, "attempts": {record.attempts}, '
            f'"status": {record.status}, "code": {quoted[record.code]}, '
            f'"prompt_tokens": {record.prompt_tokens}, '
            f'"completion_tokens": {record.completion_tokens}, '
            f'"tokens_estimated": {"true" if record.tokens_estimated else "false"}, '
            f'"queued_ms": {record.queued_s * 1000:.1f}, "held_ms": {record.held_s * 1000:.1f}, '
            f'"ttft_ms": {first_ms}, "duration_ms": {(now_s - started_s) * 1000:.1f}, '
            f'"event": "request", "process": {self._process}, "level": "info", '
            f'"timestamp": "{self._timestamp(unix_s)}"}}\n'
        )

    def _timestamp(self, unix_s: float) -> str:
        second = int(unix_s)
        if second != self._second:
            self._second = second
            self._second_text = datetime.fromtimestamp(second, UTC).replace(tzinfo=None).isoformat()
        return f"{self._second_text}.{int((unix_s - second) * 1e6):06d}Z"


class _Quoted(dict[str, str]):
    """Texts as JSON has them, for those that come again and again."""

    def __missing__(self, text: str) -> str:
        if len(self) >= _NAMES_KEPT_MAX:
            self.clear()
        self[text] = json.dumps(text)
        return self[text]


_QUOTED = _Quoted()
