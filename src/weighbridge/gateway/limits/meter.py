"""The gateway's one place for limits and usage: `admit` before a request is sent, `settle` when it has ended.

A request without limits is neither estimated nor looked up. All of it is plain calls in memory; what they
record goes to disk and to the other workers by itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from weighbridge.clock import Clock
from weighbridge.gateway.admission import Admitted
from weighbridge.gateway.answers.shapes import EngineUsage
from weighbridge.gateway.limits.queue_times import QueueTimes
from weighbridge.gateway.limits.quotas import Quotas
from weighbridge.gateway.limits.refusals import QuotaError
from weighbridge.gateway.limits.turns import Turns
from weighbridge.gateway.metrics.access import CLIENT_GONE, AccessRecord
from weighbridge.routing.acks import GatewayView
from weighbridge.routing.limits import NO_LIMITS
from weighbridge.routing.model import KeyEntry
from weighbridge.usage.model import NO_VERSION, UsageEvent
from weighbridge.usage.spool import Spool


@dataclass(frozen=True, slots=True)
class Meter:
    """A worker's; changed on its event loop only."""

    quotas: Quotas
    turns: Turns
    spool: Spool
    view: GatewayView
    clock: Clock
    queue_times: QueueTimes = field(default_factory=QueueTimes)

    def refresh(self) -> None:
        """Call every `quotas.REFRESH_S`."""
        self.quotas.refresh(self.view.live_columns())

    def admit(self, key: KeyEntry, admitted: Admitted, record: AccessRecord) -> None:
        """Charge the request to its key and endpoint; raises QuotaError. `settle` is due in either case."""
        endpoint = admitted.endpoint
        if key.limits == NO_LIMITS and endpoint.limits == NO_LIMITS:
            return
        wanted = (
            ("key", key.key_id, key.limits),
            ("endpoint", endpoint.endpoint_id, endpoint.limits),
        )
        try:
            record.admission = self.quotas.admit(
                wanted, admitted.tokens.within(endpoint.context_tokens)
            )
        except QuotaError as error:
            record.answer_fields = _fields(error.headers)
            raise
        record.answer_fields = record.admission.fields

    def count(
        self, record: AccessRecord, admitted: Admitted, usage: EngineUsage | None, chunks: int
    ) -> None:
        """The engine's count, or for an answer that broke off the chunks that carried tokens."""
        if usage is not None:
            details = usage.prompt_tokens_details
            record.prompt_tokens = usage.prompt_tokens
            record.cached_tokens = (details and details.cached_tokens) or 0
            record.completion_tokens = usage.completion_tokens or 0
        elif chunks:
            record.prompt_tokens = admitted.tokens.prompt
            record.completion_tokens = chunks
            record.tokens_estimated = True

    def settle(self, record: AccessRecord, arrived_unix_s: float) -> None:
        """Give back what was charged too much, and spool the request's usage. Call once, when it has ended."""
        used = record.prompt_tokens + record.completion_tokens
        if record.admission is not None:
            # What an engine was asked counts, even when the caller did not wait for the answer.
            answered = record.status < 400 or used > 0 or record.status == CLIENT_GONE
            self.quotas.settle(record.admission, used, answered=answered)
        if record.key_id and record.endpoint_id:
            self.spool.add(self._event(record, arrived_unix_s))

    def _event(self, record: AccessRecord, arrived_unix_s: float) -> UsageEvent:
        # Wall time costs as much as the rest of this, so it is not asked again.
        started_s, first_s = record.started_s, record.first_byte_s
        asked_s = started_s if record.asked_s is None else record.asked_s
        duration_s = self.clock.monotonic() - started_s
        return UsageEvent(
            _ms(arrived_unix_s + duration_s),
            record.org_id,
            record.key_id,
            record.endpoint_id,
            NO_VERSION if record.version is None else record.version,
            record.status,
            record.prompt_tokens,
            record.cached_tokens,
            record.completion_tokens,
            record.tokens_estimated,
            _ms(duration_s),
            _ms(record.queued_s) if record.queued_s else 0.0,
            None if first_s is None else _ms(first_s - started_s),
            _ms(record.held_s) if record.held_s else 0.0,
            record.failed_version,
            _ms(asked_s - started_s),
            record.cut,
        )


def _fields(headers: Mapping[str, str]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()


def _ms(seconds: float) -> float:
    """To a tenth of a millisecond; `round` takes several times as long."""
    return int(seconds * 1e4 + 0.5) / 1e4 if seconds > 0 else 0.0
