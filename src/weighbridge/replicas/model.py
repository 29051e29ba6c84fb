"""Replicas as values: states and what the reconciler remembers of each."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class ReplicaState(StrEnum):
    """States of a replica (reliability B2)."""

    PENDING = "pending"
    STARTING = "starting"
    WARMING = "warming"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"
    LOST = "lost"

    @property
    def final(self) -> bool:
        return not TRANSITIONS[self]


TRANSITIONS: Mapping[ReplicaState, frozenset[ReplicaState]] = {
    ReplicaState.PENDING: frozenset(
        {ReplicaState.STARTING, ReplicaState.STOPPING, ReplicaState.FAILED},
    ),
    ReplicaState.STARTING: frozenset(
        {
            ReplicaState.WARMING,
            ReplicaState.STOPPING,
            ReplicaState.FAILED,
            ReplicaState.LOST,
        },
    ),
    ReplicaState.WARMING: frozenset(
        {
            ReplicaState.READY,
            ReplicaState.STOPPING,
            ReplicaState.FAILED,
            ReplicaState.LOST,
        },
    ),
    ReplicaState.READY: frozenset({ReplicaState.DRAINING, ReplicaState.FAILED, ReplicaState.LOST}),
    ReplicaState.DRAINING: frozenset(
        {ReplicaState.STOPPING, ReplicaState.FAILED, ReplicaState.LOST},
    ),
    ReplicaState.STOPPING: frozenset({ReplicaState.STOPPED, ReplicaState.LOST}),
    ReplicaState.STOPPED: frozenset(),
    ReplicaState.FAILED: frozenset(),
    ReplicaState.LOST: frozenset(),
}


@dataclass(frozen=True, slots=True)
class Replica:
    """One engine process, wished for or running.

    `routed_generation` is the routing table that first named it, `unrouted_generation` the first that no
    longer did; both wait for the gateways' acks (G5). `slot` indexes the shared in-flight counts and is
    given to nobody else while the replica is not final.
    """

    id: str
    endpoint_id: str
    deployment_id: str
    version_id: str
    version_number: int
    digest: str
    fingerprint: str
    state: ReplicaState
    reason: str
    slot: int
    url: str | None
    incarnation: str | None
    probe_passes: int
    probe_failures: int
    routed_generation: int | None
    unrouted_generation: int | None
    created_at: datetime
    state_since: datetime
    ready_at: datetime | None
    drain_deadline: datetime | None
    revision: int
