"""One actor as the driver knows it, and what is said of one that fails."""

import asyncio
from dataclasses import dataclass

import ray.exceptions

from weighbridge.runtimes.base import (
    GROUP_LABEL,
    NODES_LABEL,
    ReplicaSpec,
    ReplicaStatus,
    RuntimeState,
)
from weighbridge.runtimes.ray.cluster import Actor, incarnation_of

ENDED = frozenset({RuntimeState.EXITED, RuntimeState.LOST})


@dataclass(slots=True)
class Entry:
    """One actor. `spec` is kept without its secrets, and only by the driver that launched it."""

    name: str
    actor: Actor
    seen_s: float
    spec: ReplicaSpec | None = None
    status: ReplicaStatus | None = None
    asked: asyncio.Future[bytes] | None = None
    answered: bool = False
    silent: bool = False
    waits: bool = True
    node_id: str = ""
    trouble: str = ""
    told_end: bool = False
    retired: bool = False
    last_words: str = ""

    @property
    def ended(self) -> bool:
        return self.status is not None and self.status.state in ENDED

    @property
    def gone(self) -> bool:
        """Nobody is left who could be asked."""
        lost = self.status is not None and self.status.state is RuntimeState.LOST
        return self.retired or lost

    @property
    def spans(self) -> int:
        """Of its nodes, where it spans several and has not ended; else 0."""
        if self.ended:
            return 0
        if self.spec is not None:
            return self.spec.placement.nodes if self.spec.placement.nodes > 1 else 0
        return int(self.status.labels.get(NODES_LABEL, 0)) if self.status is not None else 0

    @property
    def group(self) -> str | None:
        """Empty for an actor without a replica; None while it has not said whose it is."""
        if self.spec is not None:
            return self.spec.placement.group
        if self.status is not None:
            return self.status.labels.get(GROUP_LABEL, "")
        return "" if self.answered or self.waits else None


def words_of(error: Exception) -> str:
    """In one line; what was raised in an actor is named by the last one, below the way to it."""
    lines = str(error).strip().splitlines() or [repr(error)]
    in_actor = isinstance(error, ray.exceptions.RayTaskError) or (
        isinstance(error, ray.exceptions.RayActorError) and error.actor_init_failed
    )
    return lines[-1 if in_actor else 0]


def never_started(entry: Entry, reason: str) -> ReplicaStatus:
    return ReplicaStatus(
        entry.name,
        RuntimeState.EXITED,
        entry.spec.labels if entry.spec is not None else {},
        incarnation_of(entry.actor),
        "",
        reason=reason,
    )
