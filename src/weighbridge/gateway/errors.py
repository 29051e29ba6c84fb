"""How the gateway's refusals look on the wire: one table from error code to status, type and param.

The shape is the hosted inference API's: a flat object of message, type, param and code.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from weighbridge.errors import (
    ForbiddenError,
    InvalidError,
    LimitError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
    WeighbridgeError,
)
from weighbridge.gateway.limits.refusals import NotReadyError, QuotaError

RETRY_AFTER_S = 1
RETRY_SOON_S = 60
"""Clients wait by themselves up to this long; what takes longer they are told not to try again."""
REFLECTED_CHARS_MAX = 200
"""Most characters of a request's own text in an answer."""


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Row:
    status: int
    type: str
    param: str | None = None


_ROWS: Mapping[str, _Row] = {
    "wrong_api_format": _Row(400, "invalid_request_error", "validation_error"),
    "unsupported": _Row(400, "invalid_request_error", "validation_error"),
    "context_length_exceeded": _Row(400, "invalid_request_error", "messages"),
    "wrong_api_key": _Row(401, "invalid_request_error", "api_key"),
    "model_not_found": _Row(404, "not_found_error", "model"),
    "method_not_allowed": _Row(405, "invalid_request_error", "method"),
    "body_too_large": _Row(413, "invalid_request_error", "body"),
    "body_too_slow": _Row(408, "invalid_request_error", "body"),
    "head_too_slow": _Row(408, "invalid_request_error", "http"),
    "malformed_http": _Row(400, "invalid_request_error", "http"),
    "target_too_long": _Row(414, "invalid_request_error", "http"),
    "expectation_failed": _Row(417, "invalid_request_error", "headers"),
    "http_version": _Row(505, "invalid_request_error", "http"),
    "headers_too_large": _Row(431, "invalid_request_error", "headers"),
    "unsupported_media_type": _Row(415, "invalid_request_error", "headers"),
    "queue_exceeded": _Row(429, "too_many_requests_error", "queue"),
    "request_quota_exceeded": _Row(429, "too_many_requests_error", "quota"),
    "token_quota_exceeded": _Row(429, "too_many_requests_error", "quota"),
    "no_ready_replica": _Row(503, "service_unavailable_error", "model"),
    "replicas_failed": _Row(503, "service_unavailable_error", "model"),
    "engine_failed": _Row(503, "service_unavailable_error", "model"),
    "answer_cut": _Row(503, "service_unavailable_error", "model"),
    "deadline_exceeded": _Row(503, "service_unavailable_error", "model"),
    "control_plane_away": _Row(503, "service_unavailable_error"),
    "internal_error": _Row(500, "api_error"),
}

_CLASS_ROWS: tuple[tuple[type[WeighbridgeError], _Row], ...] = (
    (InvalidError, _Row(400, "invalid_request_error", "validation_error")),
    (UnauthenticatedError, _Row(401, "invalid_request_error", "api_key")),
    (ForbiddenError, _Row(403, "permission_error")),
    (NotFoundError, _Row(404, "not_found_error", "model")),
    (LimitError, _Row(429, "too_many_requests_error", "quota")),
    (UnavailableError, _Row(503, "service_unavailable_error")),
)


def model_not_found(model: str) -> NotFoundError:
    """The same for an unknown model, another org's, and one that never served (T2)."""
    shown = model[:REFLECTED_CHARS_MAX].encode("utf-8", "replace").decode()
    return NotFoundError(
        f"Model {shown} does not exist or you do not have access to it.", code="model_not_found"
    )


def error_answer(error: WeighbridgeError) -> ErrorAnswer:
    if error.code == "not_authenticated":
        return ErrorAnswer(403, b'{"detail":"Not authenticated"}')
    row = _row(error)
    return ErrorAnswer(row.status, msgspec.json.encode(_flat(error, row)), _retry(error, row))


def error_event(error: WeighbridgeError, answer_id: str) -> bytes:
    """The last event of a stream that failed (G2); nested, with the status the clients' libraries read."""
    row = _row(error)
    nested = {**_flat(error, row), "id": answer_id}
    return b"data: " + msgspec.json.encode({"error": nested, "status_code": row.status}) + b"\n\n"


def _retry(error: WeighbridgeError, row: _Row) -> Mapping[str, str]:
    if row.status not in (429, 503):
        return {}
    after_s = RETRY_AFTER_S
    if isinstance(error, QuotaError | NotReadyError):
        after_s = max(RETRY_AFTER_S, math.ceil(error.retry_after_s))
    headers = {"retry-after": str(after_s)}
    return headers if after_s <= RETRY_SOON_S else {**headers, "x-should-retry": "false"}


def _row(error: WeighbridgeError) -> _Row:
    row = _ROWS.get(error.code)
    if row is not None:
        return row
    matching = (row for kind, row in _CLASS_ROWS if isinstance(error, kind))
    return next(matching, _ROWS["internal_error"])


def _flat(error: WeighbridgeError, row: _Row) -> Mapping[str, str | None]:
    return {
        "message": error.message,
        "type": row.type,
        "param": error.param or row.param,
        "code": error.code,
    }
