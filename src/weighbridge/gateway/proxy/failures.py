"""The errors of an answer that did not come."""

from weighbridge.errors import LimitError, UnavailableError, WeighbridgeError
from weighbridge.gateway.answers.rendering import WrongIdentityError
from weighbridge.gateway.limits.refusals import NotReadyError
from weighbridge.gateway.wire.upstream import UNREACHABLE


class TooLateError(UnavailableError):
    """A deadline passed; asking another replica would only double the wait."""

    code = "deadline_exceeded"

    def __init__(self) -> None:
        super().__init__("The engine did not answer in time")


def engine_failed(why: str) -> UnavailableError:
    return UnavailableError(why, code="engine_failed")


def too_long() -> UnavailableError:
    return engine_failed("A replica's answer is too long")


def is_gone(failure: WeighbridgeError | None) -> bool:
    """Whether a replica that failed so is probably no more, so that another will take its place."""
    return isinstance(failure, WrongIdentityError) or (
        failure is not None and failure.code in (UNREACHABLE, "answer_cut")
    )


def no_answer(endpoint_id: str, failure: WeighbridgeError | None) -> WeighbridgeError:
    """What to say when no replica is left to ask; `failure` is how the last one failed."""
    if failure is None:
        return NotReadyError(endpoint_id)
    if isinstance(failure, LimitError):
        return failure
    return UnavailableError(
        f"No replica of {endpoint_id} answered; try again shortly", code="replicas_failed"
    )
