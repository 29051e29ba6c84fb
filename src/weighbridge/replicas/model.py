"""Replicas as values: states and what the reconciler remembers of each."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from weighbridge.acceptance.model import EXAM_S, EXAM_TRIES_MAX


class ReplicaState(StrEnum):
    """States of a replica (reliability B2).

    PENDING waits for a place on a node; STARTING has a process; WARMING has proven who it is and which bytes
    it loaded; READY is routed. DRAINING leaves the routes and finishes its streams. STOPPING and FAILING wait
    until the process is confirmed dead, so their slot is still taken (R19). FAILED speaks against the version,
    LOST against the node.
    """

    PENDING = "pending"
    STARTING = "starting"
    WARMING = "warming"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"
    FAILING = "failing"
    STOPPED = "stopped"
    FAILED = "failed"
    LOST = "lost"

    @property
    def final(self) -> bool:
        return not TRANSITIONS[self]

    @property
    def wanted(self) -> bool:
        """Serves, or is on its way to; not on its way out."""
        return self in WANTED


TRANSITIONS: Mapping[ReplicaState, frozenset[ReplicaState]] = {
    ReplicaState.PENDING: frozenset(
        {ReplicaState.STARTING, ReplicaState.STOPPING, ReplicaState.FAILED},
    ),
    ReplicaState.STARTING: frozenset(
        {
            ReplicaState.WARMING,
            ReplicaState.STOPPING,
            ReplicaState.FAILING,
            ReplicaState.FAILED,
            ReplicaState.LOST,
        },
    ),
    ReplicaState.WARMING: frozenset(
        {
            ReplicaState.READY,
            ReplicaState.STOPPING,
            ReplicaState.FAILING,
            ReplicaState.FAILED,
            ReplicaState.LOST,
        },
    ),
    ReplicaState.READY: frozenset(
        {
            ReplicaState.DRAINING,
            ReplicaState.FAILING,
            ReplicaState.FAILED,
            ReplicaState.LOST,
        },
    ),
    ReplicaState.DRAINING: frozenset({ReplicaState.STOPPING, ReplicaState.LOST}),
    ReplicaState.STOPPING: frozenset({ReplicaState.STOPPED, ReplicaState.LOST}),
    ReplicaState.FAILING: frozenset({ReplicaState.FAILED, ReplicaState.LOST}),
    ReplicaState.STOPPED: frozenset(),
    ReplicaState.FAILED: frozenset(),
    ReplicaState.LOST: frozenset(),
}

WANTED = frozenset(
    {
        ReplicaState.PENDING,
        ReplicaState.STARTING,
        ReplicaState.WARMING,
        ReplicaState.READY,
    }
)


@dataclass(frozen=True, slots=True)
class Replica:
    """One engine process, wished for or running.

    `routed_generation` is the routing table that first named it, `unrouted_generation` the first that no
    longer did; both wait for the gateways' acks (G5), and `routed_at` is when the first of these was complete.
    `flips` are the last times it was about to be given up for failed probes and came back; `settings_digest`
    tells the engine settings apart that it runs with, `drain_began_at` is when it left the routes. `warm_at` is
    when its probes had all passed first: from then on its acceptance probes may be asked.
    `failure_counted` is set once a rollout has put a failure on its account. `slot` indexes the shared
    in-flight counts and is given to nobody else while the replica is not final.
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
    failure_counted: bool
    routed_generation: int | None
    routed_at: datetime | None
    unrouted_generation: int | None
    created_at: datetime
    state_since: datetime
    ready_at: datetime | None
    drain_deadline: datetime | None
    revision: int
    settings_digest: str = ""
    drain_began_at: datetime | None = None
    flips: tuple[datetime, ...] = ()
    warm_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ReplicaLimits:
    """Periods and limits of a replica's life, in seconds (reliability B2 gives the defaults)."""

    probe_period_s: float = 2.0
    probe_start_period_s: float = 0.15
    probe_timeout_s: float = 5.0
    probe_generate_s: float = 30.0
    """How often an idle ready replica must produce a real token; also how long that may take."""
    probe_passes_min: int = 2
    probe_failures_max: int = 3
    flips_max: int = 3
    """This often within `flips_window_s` on the brink of being given up, and it is given up."""
    flips_window_s: float = 600.0
    load_bytes_per_s: int = 200_000_000
    """Added to the engine's start timeout: the size of the weights at this rate."""
    warm_s: float = 300.0
    """From its first right answer until its probes have passed; its exam has a clock of its own."""
    exam_turn_s: float = 900.0
    """How long a warm replica may wait for its turn to be examined."""
    exam_s: float = EXAM_S * EXAM_TRIES_MAX + 60.0
    """For its exam itself, all tries of it; the examiner ends one that takes too long before."""
    warm_failures_max: int = 10
    """So many questions in a row without a token: it is given up, but not before `warm_doubt_s` of warming."""
    warm_doubt_s: float = 20.0
    unroute_ack_s: float = 30.0
    """After this a gateway that still has not taken the new table is waited for no longer (G5)."""
    drain_s: float = 1860.0
    stop_grace_s: float = 30.0
    stop_alarm_s: float = 60.0
    failed_kept_s: float = 600.0
    """How long the runtime keeps the logs of a failed replica."""
