"""What a key or an endpoint may use at most, as both the control plane and the gateway know it."""

from collections.abc import Mapping

import msgspec

LIMIT_MAX = 10**12
"""Largest value of a limit: sums of it stay exact in the gateway's floating-point cells."""


class UsageLimits(msgspec.Struct, frozen=True, omit_defaults=True):
    """None means no limit. Requests and tokens refill continuously over their period; a token limit counts
    prompt and completion together. `concurrency` is the most requests in flight at once.
    """

    concurrency: int | None = None
    requests_minute: int | None = None
    requests_hour: int | None = None
    requests_day: int | None = None
    tokens_minute: int | None = None
    tokens_hour: int | None = None
    tokens_day: int | None = None


NO_LIMITS = UsageLimits()
LIMIT_NAMES = UsageLimits.__struct_fields__


def with_defaults(own: UsageLimits, defaults: UsageLimits) -> UsageLimits:
    """Each limit that `own` leaves open is the default's."""
    return UsageLimits(
        *(
            value if value is not None else getattr(defaults, name)
            for name, value in zip(LIMIT_NAMES, msgspec.structs.astuple(own), strict=True)
        )
    )


def limits_document(limits: UsageLimits) -> dict[str, int]:
    """As a JSON column keeps it: only the limits that are set."""
    return {
        name: value for name, value in msgspec.structs.asdict(limits).items() if value is not None
    }


def read_limits(document: Mapping[str, object]) -> UsageLimits:
    """The reverse of `limits_document`."""
    return msgspec.convert(document, UsageLimits)
