"""One admitted request on its way: whom it answers, its deadlines, and its record."""

from dataclasses import dataclass

from aiohttp import web

from weighbridge.clock import Clock
from weighbridge.errors import UnavailableError
from weighbridge.gateway.admission import Admitted
from weighbridge.gateway.answers.rendering import AnswerIdentity, Elapsed
from weighbridge.gateway.answers.shapes import EngineUsage
from weighbridge.gateway.http.limits import Limits
from weighbridge.gateway.metrics.access import AccessRecord
from weighbridge.routing.model import ReplicaRoute


class ClientGoneError(Exception):
    """The caller closed its connection or stopped reading; there is nobody to answer."""


class TooLateError(UnavailableError):
    """A deadline passed; asking another replica would only double the wait."""

    code = "deadline_exceeded"

    def __init__(self) -> None:
        super().__init__("The engine did not answer in time")


@dataclass(frozen=True, slots=True)
class Exchange:
    """Times are monotonic seconds unless named unix."""

    request: web.BaseRequest
    admitted: Admitted
    record: AccessRecord
    limits: Limits
    clock: Clock
    answer_id: str
    created_unix_s: float

    def identity(self, replica: ReplicaRoute) -> AnswerIdentity:
        return AnswerIdentity(
            answer_id=self.answer_id,
            is_chat=self.admitted.is_chat,
            endpoint_id=self.admitted.endpoint.endpoint_id,
            fingerprint=replica.fingerprint,
            served_name=replica.served_name,
            created_unix_s=self.created_unix_s,
            tier_used=self.admitted.tier_used,
            top_logprobs=self.admitted.top_logprobs,
        )

    def first_byte_by_s(self) -> float:
        return self._by_s(self.limits.first_byte_s)

    def idle_by_s(self) -> float:
        return self._by_s(self.limits.idle_s)

    def _by_s(self, wait_s: float) -> float:
        deadline_s = self.record.started_s + self.limits.request_max_s
        return min(deadline_s, self.clock.monotonic() + wait_s)

    def mark_first_byte(self) -> None:
        self.record.first_byte_s = self.clock.monotonic()

    def elapsed(self) -> Elapsed:
        now_s, record = self.clock.monotonic(), self.record
        first_s = now_s if record.first_byte_s is None else record.first_byte_s
        return Elapsed(first_s - record.started_s, now_s - record.started_s)

    def count_tokens(self, usage: EngineUsage | None, chunks: int = 0) -> None:
        """The engine's count, or for an answer that broke off the chunks that carried tokens."""
        if usage is None:
            self.record.completion_tokens = chunks
            self.record.tokens_estimated = chunks > 0
        else:
            self.record.prompt_tokens = usage.prompt_tokens
            self.record.completion_tokens = usage.completion_tokens or 0
            details = usage.prompt_tokens_details
            self.record.cached_tokens = (details and details.cached_tokens) or 0
