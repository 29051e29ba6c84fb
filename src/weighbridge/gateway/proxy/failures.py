"""The errors of an answer that did not come."""

from weighbridge.errors import LimitError, UnavailableError, WeighbridgeError


class TooLateError(UnavailableError):
    """A deadline passed; asking another replica would only double the wait."""

    code = "deadline_exceeded"

    def __init__(self) -> None:
        super().__init__("The engine did not answer in time")


def engine_failed(why: str) -> UnavailableError:
    return UnavailableError(why, code="engine_failed")


def no_answer(endpoint_id: str, failure: WeighbridgeError | None) -> WeighbridgeError:
    """What to say when no replica is left to ask; `failure` is how the last one failed."""
    if failure is None:
        return UnavailableError(
            f"{endpoint_id} has no ready replica; try again shortly", code="no_ready_replica"
        )
    if isinstance(failure, LimitError):
        return failure
    return UnavailableError(
        f"No replica of {endpoint_id} answered; try again shortly", code="replicas_failed"
    )
