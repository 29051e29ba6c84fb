"""The refusals of a limit: what was passed, and when asking again makes sense."""

from collections.abc import Mapping

from weighbridge.errors import LimitError, UnavailableError
from weighbridge.gateway.limits.buckets import Window

QUEUE_RETRY_S = 1.0


class QuotaError(LimitError):
    """`retry_after_s` is when the same request would pass if nobody else asked; `headers` tell how limits stand."""

    def __init__(
        self,
        message: str,
        *,
        code: str,
        retry_after_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, code=code)
        self.retry_after_s = retry_after_s
        self.headers = headers or {}


class NotReadyError(UnavailableError):
    """No replica is ready; `retry_after_s` is when one is to be expected, 0 where nothing speaks for a time."""

    code = "no_ready_replica"

    def __init__(self, endpoint_id: str, retry_after_s: float = 0.0) -> None:
        super().__init__(f"{endpoint_id} has no ready replica; try again shortly")
        self.retry_after_s = retry_after_s


def window_refusal(
    window: Window, retry_after_s: float, headers: Mapping[str, str] | None = None
) -> QuotaError:
    """In the hosted API's words (wire.md §3.6)."""
    if window.counts_tokens:
        what, why, code = "Tokens", "too many tokens processed", "token_quota_exceeded"
    else:
        what, why, code = "Requests", "too many requests sent", "request_quota_exceeded"
    return QuotaError(
        f"{what} per {window.period} limit exceeded - {why}.",
        code=code,
        retry_after_s=retry_after_s,
        headers=headers,
    )


def concurrency_refusal(headers: Mapping[str, str]) -> QuotaError:
    return QuotaError(
        "Concurrent requests limit exceeded - too many requests in flight.",
        code="request_quota_exceeded",
        retry_after_s=QUEUE_RETRY_S,
        headers=headers,
    )


def threshold_refusal(endpoint_id: str, wait_s: float) -> QuotaError:
    return QuotaError(
        f"Requests to {endpoint_id} wait for {wait_s * 1000:.0f} ms now, longer than queue_threshold",
        code="queue_exceeded",
        retry_after_s=wait_s,
    )


def queue_refusal(endpoint_id: str) -> QuotaError:
    return QuotaError(
        f"Every replica of {endpoint_id} is busy; try again shortly",
        code="queue_exceeded",
        retry_after_s=QUEUE_RETRY_S,
    )
