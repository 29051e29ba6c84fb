"""The one table from error class to HTTP status, and the one shape of an error (wire.md §8 H–J).

A body is flat (`message`, `type`, `param`, `code`) and carries `detail` too, so that OpenAI-style and
FastAPI-style readers can both print it.
"""

from collections.abc import Mapping, Sequence

import structlog
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException

from weighbridge.errors import (
    ConflictError,
    ForbiddenError,
    InvalidError,
    LimitError,
    NotFoundError,
    StaleError,
    UnauthenticatedError,
    UnavailableError,
    WeighbridgeError,
)
from weighbridge.usage.metrics import AskedTooOftenError

log = structlog.get_logger()

RETRY_AFTER_S = 2
ASKED_RETRY_S = 10
"""Of metrics, which an org may ask for every ten seconds."""
DETAILS_MAX = 20
LOCATION_CHARS_MAX = 64


class MissingKeyError(UnauthenticatedError):
    """No Authorization header at all; the hosted service answers this one in FastAPI's own shape."""


class BodyTooLargeError(InvalidError):
    code = "body_too_large"


class ContentTypeError(InvalidError):
    code = "unsupported_content_type"


class KeyReusedError(InvalidError):
    """An Idempotency-Key came back with another request."""

    code = "idempotency_key_reused"


class InFlightError(ConflictError):
    """The request that brought this Idempotency-Key first has not ended yet."""

    code = "request_in_flight"


TABLE: Mapping[type[WeighbridgeError], tuple[int, str]] = {
    InvalidError: (400, "invalid_request_error"),
    UnauthenticatedError: (401, "invalid_request_error"),
    ForbiddenError: (403, "permission_error"),
    NotFoundError: (404, "not_found_error"),
    ConflictError: (409, "conflict_error"),
    StaleError: (409, "conflict_error"),
    BodyTooLargeError: (413, "invalid_request_error"),
    ContentTypeError: (415, "invalid_request_error"),
    KeyReusedError: (422, "invalid_request_error"),
    LimitError: (429, "too_many_requests_error"),
    WeighbridgeError: (500, "server_error"),
    UnavailableError: (503, "service_unavailable_error"),
}
"""The most specific class counts."""


def status_and_type(error: WeighbridgeError) -> tuple[int, str]:
    return next(TABLE[cls] for cls in type(error).__mro__ if cls in TABLE)


def flat(
    status: int,
    message: str,
    *,
    type_: str,
    code: str,
    param: str | None = None,
    detail: object = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """An error body; without `detail` the message stands there too."""
    body = {
        "message": message,
        "type": type_,
        "param": param,
        "code": code,
        "detail": message if detail is None else detail,
    }
    return JSONResponse(body, status, headers=dict(headers or {}))


async def answer_domain_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, WeighbridgeError)
    if isinstance(error, MissingKeyError):
        return JSONResponse({"detail": "Not authenticated"}, 403)
    status, type_ = status_and_type(error)
    if status >= 500:
        log.warning("api.failed", code=error.code, message=error.message)
    return flat(
        status,
        error.message,
        type_=type_,
        code=error.code,
        param=error.param,
        headers=_headers(error),
    )


def _headers(error: WeighbridgeError) -> Mapping[str, str]:
    match error:
        case UnauthenticatedError():
            return {"www-authenticate": "Bearer"}
        case StaleError() | InFlightError():
            return {"x-should-retry": "true"}
        case ConflictError():
            # The SDKs retry a 409 by themselves; this one stays until somebody changes something.
            return {"x-should-retry": "false"}
        case AskedTooOftenError():
            return {"retry-after": str(ASKED_RETRY_S)}
        case UnavailableError():
            return {"retry-after": str(RETRY_AFTER_S)}
        case _:
            return {}


async def answer_validation_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    details = [
        {"loc": _location(item["loc"]), "msg": str(item["msg"]), "type": str(item["type"])}
        for item in error.errors()[:DETAILS_MAX]
    ]
    first = details[0]
    param = ".".join(str(part) for part in first["loc"][1:]) or None
    return flat(
        400,
        f"{param or 'The request body'}: {first['msg']}",
        type_="invalid_request_error",
        code="wrong_api_format",
        param=param,
        detail=details,
    )


def _location(parts: Sequence[int | str]) -> list[int | str]:
    # A location may hold the caller's own text: the name of an unknown field.
    return [
        part
        if isinstance(part, int)
        else part.encode("ascii", "replace").decode()[:LOCATION_CHARS_MAX]
        for part in parts
    ]


async def answer_http_error(request: Request, error: Exception) -> Response:
    """What the router itself refuses: unknown routes look empty, as at the hosted service."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return PlainTextResponse("", 404)
    if error.status_code == 405:
        return flat(
            405,
            f"{request.method} is not possible here.",
            type_="invalid_request_error",
            code="method_not_allowed",
            headers=error.headers,
        )
    return flat(
        error.status_code,
        str(error.detail),
        type_="invalid_request_error",
        code="invalid_request",
        headers=error.headers,
    )
