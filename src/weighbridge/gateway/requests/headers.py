"""What a request asks by its head (wire.md §3.1): the rules it is checked by, and how long a queue may be."""

import math
from typing import Final, Literal

from weighbridge.errors import InvalidError

VersionPatch = Literal[1, 2]
NEWEST_PATCH: Final[VersionPatch] = 2
QUEUE_MS_MIN: Final = 50
QUEUE_MS_MAX: Final = 20_000
_TIERS: Final = ("auto", "flex")


def version_patch(text: str | None) -> VersionPatch:
    """Of `X-Cerebras-Version-Patch`: by which version of the API's rules the body is checked."""
    if text is None or text == "2":
        return NEWEST_PATCH
    if text == "1":
        return 1
    raise _wrong("X-Cerebras-Version-Patch must be 1 or 2")


def queue_threshold_s(text: str | None, tier: str | None) -> float | None:
    """Of `queue_threshold`: with a longer queue the request is to be refused at once. Only for tiers that may wait."""
    if text is None:
        return None
    try:
        milliseconds = float(text)
    except ValueError:
        milliseconds = math.nan
    if not QUEUE_MS_MIN <= milliseconds <= QUEUE_MS_MAX:
        raise _wrong(
            f"queue_threshold must be {QUEUE_MS_MIN} to {QUEUE_MS_MAX} milliseconds; leave it out to wait in line"
        )
    if tier not in _TIERS:
        raise _wrong("queue_threshold needs 'service_tier' to be 'auto' or 'flex'")
    return milliseconds / 1000


def _wrong(message: str) -> InvalidError:
    return InvalidError(message, code="wrong_api_format")
