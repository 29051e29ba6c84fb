"""Deployments as values: what was asked for, and how far its rollout has come."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from weighbridge.rollouts.gate import GateLimits


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
    `updated_max` is the high-water mark of `updated_replicas`: only a new maximum is progress (R14);
    `restored_max` is its twin on the way back, and `restore_failures` that of `failures`. `progress_at` is when
    the last progress was made, in the direction that `status` names. `settings_digest` tells the engine
    settings apart that its replicas run with: the architecture's at submission. With a `traffic_percent`
    it is a canary until `promoted_at`.
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
    restored_max: int
    restore_failures: int
    cancel_requested: bool
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    progress_at: datetime | None
    finished_at: datetime | None
    revision: int
    settings_digest: str = ""
    traffic_percent: int | None = None
    promoted_at: datetime | None = None

    @property
    def canary(self) -> bool:
        """Whether it stays beside its base with a share of the requests until it is promoted."""
        return self.traffic_percent is not None and self.promoted_at is None

    @property
    def canary_replicas(self) -> int:
        """How many replicas its share asks for, with room for one of the base."""
        share = -(-self.replicas * (self.traffic_percent or 0) // 100)
        return max(1, min(share, self.replicas, self.replicas + self.max_surge - 1))


@dataclass(frozen=True, slots=True)
class RolloutLimits:
    """Limits of a rollout (reliability B3 gives the defaults)."""

    min_ready_s: float = 10.0
    bake_s: float = 60.0
    """How long the finished state must hold before the rollout is done."""
    progress_s: float = 1_200.0
    total_s: float = 21_600.0
    rollback_progress_s: float = 2_400.0
    capacity_s: float = 1_800.0
    """How long a new replica may wait for a place on a node."""
    drain_credit_s: float = 10.0
    """Time spent on a drain is not held against progress; it is credited in steps of this size."""
    failures_min: int = 2
    backoff_s: tuple[float, ...] = (1.0, 5.0, 25.0)
    """Pauses before a failed replica is replaced, by failures so far; the last one repeats."""
    upkeep_backoff_s: tuple[float, ...] = (1.0, 5.0, 25.0, 60.0, 300.0)
    """As `backoff_s`, for the replacement of replicas while no rollout is active."""
    gate: GateLimits = field(default_factory=GateLimits)
    gate_base_s: float = 900.0
    """How far before the rollout's start the base's requests count."""
    failures_window_s: float = 900.0
    """Failures older than this no longer slow a replacement down."""

    def failures_max(self, replicas: int) -> int:
        """How many failures end a rollout to this many replicas: a quarter of them, at least two (R13)."""
        return max(self.failures_min, -(-replicas // 4))
