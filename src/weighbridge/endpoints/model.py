"""Endpoints as values."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from weighbridge.endpoints.gate import SERVERS_GATE, GateOptions
from weighbridge.routing.limits import NO_LIMITS, UsageLimits
from weighbridge.routing.options import DEFAULT_OPTIONS, GatewayOptions


class QueuePolicy(StrEnum):
    """What a new deployment means for those that wait on the endpoint: nothing, or their end (R1)."""

    FIFO = "fifo"
    LATEST_WINS = "latest_wins"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The name clients call; `replicas`, `max_unavailable` and `max_surge` shape its rollouts (R4, R18).

    Only with `allow_downtime` may a rollout stop every replica at once.

    `limits` are over all keys. `replicas_max` is how far its own org may scale it; None: not at all.
    `gateway` is how the gateway treats its requests, `gate` what it sets itself of when a version counts as worse.
    `base_deployment_id` is the deployment that last ended `done`: what a rollback returns to (R12).
    """

    id: str
    org_id: str
    arch_id: str
    replicas: int
    max_unavailable: int
    max_surge: int
    base_deployment_id: str | None
    created_at: datetime
    updated_at: datetime
    revision: int
    limits: UsageLimits = NO_LIMITS
    replicas_max: int | None = None
    allow_downtime: bool = False
    queue_policy: QueuePolicy = QueuePolicy.FIFO
    gateway: GatewayOptions = DEFAULT_OPTIONS
    gate: GateOptions = SERVERS_GATE
