"""What the client raises; an answer's status decides the class, its body the message and code.

ClientError
├── ConfigurationError       no key or no usable base URL: nothing was sent
├── ConnectionFailedError    no answer: refused, reset, or too slow
├── AnswerError              an answer that is not what the contract says
├── StreamError              a stream that broke, or reported an error, before its end
├── WaitTimeoutError         the thing waited for is not finished; it goes on without us
├── SyncFailedError          a weight sync ended without a usable version
├── RolloutFailedError       a rollout ended without serving its version
└── StatusError              an answer that says no
    ├── BadRequestError          400, 422
    ├── AuthenticationError      401
    ├── PermissionDeniedError    403
    ├── NotFoundError            404
    ├── ConflictError            409
    ├── RateLimitError           429
    └── ServerError              500 and above
        └── UnavailableError     502, 503, 504
"""

from collections.abc import Mapping


class ClientError(Exception):
    """Base of everything this package raises; `code` is stable and machine-readable."""

    code = "client_error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code


class ConfigurationError(ClientError):
    code = "configuration"


class ConnectionFailedError(ClientError):
    """`sent` is False when the request certainly never reached a server, so that it may be repeated."""

    code = "connection_failed"

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class AnswerError(ClientError):
    code = "unexpected_answer"


class StreamError(ClientError):
    """`text` is what had arrived; `status` is the one a server reported inside the stream, if it did."""

    code = "stream_broken"

    def __init__(
        self, message: str, *, text: str, status: int | None = None, code: str | None = None
    ) -> None:
        super().__init__(message, code=code)
        self.text = text
        self.status = status


class WaitTimeoutError(ClientError):
    code = "wait_timeout"


class SyncFailedError(ClientError):
    code = "sync_failed"


class RolloutFailedError(ClientError):
    code = "rollout_failed"


class StatusError(ClientError):
    """`param` names the offending member of the request, where the server knows one."""

    code = "status_error"

    def __init__(
        self, message: str, *, status: int, code: str | None = None, param: str | None = None
    ) -> None:
        super().__init__(message, code=code)
        self.status = status
        self.param = param


class BadRequestError(StatusError):
    code = "invalid_request"


class AuthenticationError(StatusError):
    code = "wrong_api_key"


class PermissionDeniedError(StatusError):
    code = "forbidden"


class NotFoundError(StatusError):
    code = "not_found"


class ConflictError(StatusError):
    code = "conflict"


class RateLimitError(StatusError):
    code = "limit_reached"


class ServerError(StatusError):
    code = "internal_error"


class UnavailableError(ServerError):
    code = "unavailable"


_CLASSES: Mapping[int, type[StatusError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    422: BadRequestError,
    429: RateLimitError,
    502: UnavailableError,
    503: UnavailableError,
    504: UnavailableError,
}


def status_error(status: int, body: object, *, asked: str) -> StatusError:
    """The error of an answer; reads flat bodies, bodies under `error`, and FastAPI's `detail`.

    `asked` ("GET /path") stands in for the message of an answer that has none.
    """
    members = body if isinstance(body, Mapping) else {}
    inner = members.get("error")
    if isinstance(inner, Mapping):
        members = inner
    fallback = f"{asked} was answered with status {status}"
    message = _text(members.get("message")) or _detail(members.get("detail")) or fallback
    kind = _CLASSES.get(status, ServerError if status >= 500 else StatusError)
    return kind(
        message, status=status, code=_text(members.get("code")), param=_text(members.get("param"))
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _detail(value: object) -> str | None:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        parts = [item.get("msg") for item in value if isinstance(item, Mapping)]
        return "; ".join(str(part) for part in parts if part) or None
    return None
