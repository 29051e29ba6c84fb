"""The domain's errors; what they look like on the wire is decided in api/errors.py and gateway/errors.py.

WeighbridgeError
├── InvalidError         the caller sent something wrong
├── UnauthenticatedError no key, or a key nobody knows
├── ForbiddenError       a known key that may not do this
├── NotFoundError        absent, or not the caller's to see (T2: the two look alike)
├── ConflictError        true now, perhaps not later: taken alias, version in use
├── LimitError           a named limit is reached
├── UnavailableError     a part this needs is down; trying again later is right
├── StaleError           a guarded write found another state than it had read
└── SetupError           this machine or its settings are not fit to start; message says what to do
"""


class WeighbridgeError(Exception):
    """Base of all errors a caller may see.

    `code` is stable and machine-readable; the message names the thing and the next step. `param`
    names the offending member of the request, where there is one.
    """

    code = "internal_error"

    def __init__(self, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code


class InvalidError(WeighbridgeError):
    code = "invalid_request"


class UnauthenticatedError(WeighbridgeError):
    code = "wrong_api_key"


class ForbiddenError(WeighbridgeError):
    code = "forbidden"


class NotFoundError(WeighbridgeError):
    code = "not_found"


class ConflictError(WeighbridgeError):
    code = "conflict"


class LimitError(WeighbridgeError):
    code = "limit_reached"


class UnavailableError(WeighbridgeError):
    code = "unavailable"


class StaleError(WeighbridgeError):
    code = "stale"


class SetupError(WeighbridgeError):
    code = "setup"
