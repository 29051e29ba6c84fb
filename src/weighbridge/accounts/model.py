"""Organizations and API keys as values."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from weighbridge.routing.limits import NO_LIMITS, UsageLimits


class KeyKind(StrEnum):
    """What a key may be used for (T1)."""

    MANAGEMENT = "management"
    INFERENCE = "inference"
    BOTH = "both"
    ADMIN = "admin"

    @property
    def manages(self) -> bool:
        return self in (KeyKind.MANAGEMENT, KeyKind.BOTH)

    @property
    def infers(self) -> bool:
        return self in (KeyKind.INFERENCE, KeyKind.BOTH)


@dataclass(frozen=True, slots=True)
class Org:
    """`name` stands in resource names, `id` (`org_…`) in metrics; both are fixed.

    `key_limits` stand in for the limits that a key of the org leaves open.
    """

    id: str
    name: str
    s3_external_id: str
    s3_role_arn: str | None
    created_at: datetime
    key_limits: UsageLimits = NO_LIMITS


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it may be shown: never the secret. Admin keys belong to no org."""

    id: str
    org_id: str | None
    kind: KeyKind
    name: str
    prefix: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    limits: UsageLimits = NO_LIMITS
