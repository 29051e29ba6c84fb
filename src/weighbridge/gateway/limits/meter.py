"""The gateway's one place for limits: `admit` before a request is sent, `settle` when it has ended.

A request without limits is not looked up. All of it is plain calls in memory; the other workers see it at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

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


@dataclass(frozen=True, slots=True)
class Meter:
    """A worker's; changed on its event loop only."""

    quotas: Quotas
    turns: Turns
    view: GatewayView
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

    def settle(self, record: AccessRecord) -> None:
        """Give back what was charged too much. Call once, when the request has ended."""
        if record.admission is not None:
            used = record.prompt_tokens + record.completion_tokens
            # What an engine was asked counts, even when the caller did not wait for the answer.
            answered = record.status < 400 or used > 0 or record.status == CLIENT_GONE
            self.quotas.settle(record.admission, used, answered=answered)


def _fields(headers: Mapping[str, str]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()
