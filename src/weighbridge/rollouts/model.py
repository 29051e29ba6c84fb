"""Deployments as values: what was asked for, and how far its rollout has come."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class RolloutStatus(StrEnum):
    """The public API's words (wire.md 1.2, operation 9)."""

    NOT_STARTED = "not_started"
    IN_PROGRESS = "in_progress"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"
    DONE = "done"
    ERROR = "error"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return not TRANSITIONS[self]


TRANSITIONS: Mapping[RolloutStatus, frozenset[RolloutStatus]] = {
    RolloutStatus.NOT_STARTED: frozenset(
        {RolloutStatus.IN_PROGRESS, RolloutStatus.ERROR, RolloutStatus.CANCELLED},
    ),
    RolloutStatus.IN_PROGRESS: frozenset(
        {RolloutStatus.DONE, RolloutStatus.ROLLING_BACK, RolloutStatus.ERROR},
    ),
    RolloutStatus.ROLLING_BACK: frozenset(
        {RolloutStatus.ROLLED_BACK, RolloutStatus.CANCELLED, RolloutStatus.ERROR},
    ),
    RolloutStatus.ROLLED_BACK: frozenset(),
    RolloutStatus.DONE: frozenset(),
    RolloutStatus.ERROR: frozenset(),
    RolloutStatus.CANCELLED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class Deployment:
    """A version asked to serve an endpoint.

    `reference` is the caller's own word for the version (alias or number), resolved once, at submission
    (R7). `replicas`, `max_unavailable` and `max_surge` are those at the rollout's start (R18).
    `updated_max` is the high-water mark of `updated_replicas`: only a new maximum is progress (R14).
    """

    id: str
    endpoint_id: str
    org_id: str
    arch_id: str
    version_id: str
    version_number: int
    digest: str
    fingerprint: str
    reference: str
    status: RolloutStatus
    reason: str
    error_message: str | None
    base_deployment_id: str | None
    replicas: int
    max_unavailable: int
    max_surge: int
    updated_replicas: int
    updated_max: int
    failures: int
    cancel_requested: bool
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    progress_at: datetime | None
    finished_at: datetime | None
    revision: int
