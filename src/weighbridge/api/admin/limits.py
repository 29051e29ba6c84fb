"""Limits of keys and endpoints on the wire: what a change sets, and how they are shown."""

from typing import Annotated, Self

import msgspec
from pydantic import Field

from weighbridge.api.admin.router import Body
from weighbridge.api.answers import Answer
from weighbridge.routing.limits import LIMIT_MAX, UsageLimits

Limit = Annotated[int, Field(ge=1, le=LIMIT_MAX)]


class LimitsChange(Body):
    """A member that is left out stays as it is; null takes the limit away."""

    concurrency: Limit | None = Field(default=None, description="Requests in flight at once.")
    requests_minute: Limit | None = None
    requests_hour: Limit | None = None
    requests_day: Limit | None = None
    tokens_minute: Limit | None = Field(
        default=None, description="Prompt and completion tokens together."
    )
    tokens_hour: Limit | None = None
    tokens_day: Limit | None = None

    def __call__(self, limits: UsageLimits) -> UsageLimits:
        changes = {name: getattr(self, name) for name in self.model_fields_set}
        return msgspec.structs.replace(limits, **changes)


class LimitsAnswer(Answer):
    """null: no limit."""

    concurrency: int | None
    requests_minute: int | None
    requests_hour: int | None
    requests_day: int | None
    tokens_minute: int | None
    tokens_hour: int | None
    tokens_day: int | None

    @classmethod
    def of(cls, limits: UsageLimits) -> Self:
        return cls(**msgspec.structs.asdict(limits))
