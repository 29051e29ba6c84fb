"""The record of one request, from its arrival to its end: logged once and counted; never a prompt in it."""

from dataclasses import dataclass, field

import structlog

from weighbridge.gateway.limits.quotas import Admission
from weighbridge.gateway.metrics.figures import Figures

log = structlog.get_logger()

CLIENT_GONE = 499
"""Logged status of a request whose caller left before the answer was whole."""


@dataclass(slots=True)
class AccessRecord:
    """Filled in on the way by the request's own task. `answer_headers` belong on its answer, whatever it is."""

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
    body_bytes: int = 0
    prompt_estimate: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    tokens_estimated: bool = False
    queued_s: float = 0.0
    first_byte_s: float | None = None
    admission: Admission | None = None
    answer_headers: dict[str, str] = field(default_factory=dict)


def finish(record: AccessRecord, figures: Figures, now_s: float) -> None:
    """Write the one event of this request and count it."""
    duration_s = now_s - record.started_s
    first_s = None if record.first_byte_s is None else record.first_byte_s - record.started_s
    figures.count(
        (record.route, record.endpoint_id, record.status),
        duration_s=duration_s,
        first_byte_s=first_s,
        prompt_tokens=record.prompt_tokens,
        completion_tokens=record.completion_tokens,
    )
    log.info(
        "request",
        request_id=record.request_id,
        route=record.route,
        org_id=record.org_id,
        key_id=record.key_id,
        endpoint_id=record.endpoint_id,
        version=record.version,
        replica_id=record.replica_id,
        attempts=record.attempts,
        status=record.status,
        code=record.code,
        prompt_tokens=record.prompt_tokens,
        completion_tokens=record.completion_tokens,
        tokens_estimated=record.tokens_estimated,
        queued_ms=round(record.queued_s * 1000, 1),
        ttft_ms=None if first_s is None else round(first_s * 1000, 1),
        duration_ms=round(duration_s * 1000, 1),
    )
