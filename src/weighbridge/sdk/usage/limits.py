"""What a key or an endpoint may use at most."""

from dataclasses import dataclass
from typing import Self

from weighbridge.sdk.fields import Fields


@dataclass(frozen=True, slots=True)
class Limits:
    """None: no limit. Token limits count prompt and completion together; all refill continuously."""

    concurrency: int | None = None
    requests_minute: int | None = None
    requests_hour: int | None = None
    requests_day: int | None = None
    tokens_minute: int | None = None
    tokens_hour: int | None = None
    tokens_day: int | None = None

    @classmethod
    def read(cls, answer: Fields, name: str) -> Self:
        """Servers before limits do not send them."""
        part = answer.part_or_none(name)
        if part is None:
            return cls()
        return cls(**{limit: part.integer_or_none(limit) for limit in LIMITS})


LIMITS = tuple(Limits.__dataclass_fields__)
