"""What a request leaves behind when it has ended: figures, a usage event, a log line; made for many at a time."""

import asyncio
from typing import Final

from weighbridge.gateway.metrics.access import AccessLog, AccessRecord
from weighbridge.gateway.metrics.figures import Figures
from weighbridge.usage.model import NO_VERSION, UsageEvent
from weighbridge.usage.spool import Spool

HELD_MAX: Final = 256
HELD_S: Final = 0.05
"""How long an ended request may wait for others; a worker that is killed loses what waits."""


class EndedRequests:
    """No caller waits for any of this, and the same few functions cost less when they run for many in a row."""

    def __init__(self, figures: Figures, spool: Spool, log: AccessLog) -> None:
        self._figures = figures
        self._spool = spool
        self._log = log
        self._waiting: list[AccessRecord] = []

    def add(self, record: AccessRecord) -> None:
        """The record must not change any more."""
        if not self._waiting:
            asyncio.get_running_loop().call_later(HELD_S, self.flush)
        self._waiting.append(record)
        if len(self._waiting) >= HELD_MAX:
            self.flush()

    def flush(self) -> None:
        ended, self._waiting = self._waiting, []
        for record in ended:
            first_s = record.first_byte_s
            self._figures.count(
                (record.route, record.endpoint_id, record.status),
                record.ended_s - record.started_s,
                None if first_s is None else first_s - record.started_s,
                record.prompt_tokens,
                record.completion_tokens,
            )
            if record.key_id and record.endpoint_id:
                self._spool.add(_usage_event(record))
        self._log.write(ended)


def _usage_event(record: AccessRecord) -> UsageEvent:
    started_s, first_s = record.started_s, record.first_byte_s
    asked_s = started_s if record.asked_s is None else record.asked_s
    duration_s = record.ended_s - started_s
    return UsageEvent(
        _to_tenths_of_ms(record.arrived_unix_s + duration_s),
        record.org_id,
        record.key_id,
        record.endpoint_id,
        NO_VERSION if record.version is None else record.version,
        record.status,
        record.prompt_tokens,
        record.cached_tokens,
        record.completion_tokens,
        record.tokens_estimated,
        _to_tenths_of_ms(duration_s),
        _to_tenths_of_ms(record.queued_s) if record.queued_s else 0.0,
        None if first_s is None else _to_tenths_of_ms(first_s - started_s),
        _to_tenths_of_ms(record.held_s) if record.held_s else 0.0,
        record.failed_version,
        _to_tenths_of_ms(asked_s - started_s),
        record.cut,
    )


def _to_tenths_of_ms(seconds: float) -> float:
    """Seconds still, without what nobody needs; `round` takes several times as long."""
    return int(seconds * 1e4 + 0.5) / 1e4 if seconds > 0 else 0.0
