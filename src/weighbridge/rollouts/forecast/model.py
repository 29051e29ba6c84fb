"""What a forecast is made from and what it says, as values."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from weighbridge.endpoints.model import Endpoint
from weighbridge.replicas.model import Replica
from weighbridge.rollouts.model import Deployment, RolloutStatus


@dataclass(frozen=True, slots=True)
class Pace:
    """How long replicas take, in seconds: from the wish to ready, from ready to routed by every gateway, from
    leaving the routes to the end of the process, and to stop one that serves nobody.
    """

    start_s: float
    route_s: float
    drain_s: float
    stop_s: float


NOMINAL = Pace(start_s=60.0, route_s=1.0, drain_s=5.0, stop_s=1.0)
"""Orders the steps where there is no history; no time is told from it."""


@dataclass(frozen=True, slots=True)
class History:
    """Seconds that replicas of one endpoint took, newest first; each may be empty."""

    starts_s: Sequence[float] = ()
    routes_s: Sequence[float] = ()
    drains_s: Sequence[float] = ()

    @property
    def known(self) -> bool:
        """Whether times can be told; a first rollout drains nothing, so drains may be missing."""
        return bool(self.starts_s)

    def pace(self) -> Pace:
        """Medians; what has no history is taken from `NOMINAL`."""
        return Pace(
            start_s=median(self.starts_s or (NOMINAL.start_s,)),
            route_s=median(self.routes_s or (NOMINAL.route_s,)),
            drain_s=median(self.drains_s or (NOMINAL.drain_s,)),
            stop_s=NOMINAL.stop_s,
        )


@dataclass(frozen=True, slots=True)
class Outlook:
    """An endpoint as it is: `queue` are the deployments that have not ended, in order, the new one last.

    `base` is what serves, `active_base` what the first of the queue goes back to if it has begun.
    """

    endpoint: Endpoint
    queue: Sequence[Deployment]
    base: Deployment | None
    active_base: Deployment | None
    replicas: Sequence[Replica]


class StepKind(StrEnum):
    ADOPT = "adopt"
    """Replicas that run the version already count for the deployment (R17)."""
    START = "start"
    ROUTE = "route"
    DRAIN = "drain"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Step:
    """`count` replicas of one version move, `at_s` after the deployment's start.

    `routed` is the lowest number of replicas that take requests from this step to the next, `slots` how many
    hold a place meanwhile.
    """

    at_s: float
    kind: StepKind
    version_number: int
    count: int
    routed: int
    slots: int


@dataclass(frozen=True, slots=True)
class Share:
    """What a canary that stands has of its endpoint: so much of the requests, and replicas beside the base's."""

    traffic_percent: int
    replicas: int
    base_replicas: int


@dataclass(frozen=True, slots=True)
class Course:
    """How the new deployment would go if every replica did as its pace says.

    `gap_s` is how long no replica takes requests though one did before. `complete` is False when the forecast
    stopped short of the end: `steps` are then the first ones only. A canary's end is where it stands with its
    `share` until somebody promotes or cancels it.
    """

    steps: Sequence[Step]
    status: RolloutStatus
    reason: str
    waits_s: float
    takes_s: float
    routed_before: int
    routed_min: int
    slots_max: int
    gap_s: float
    complete: bool
    share: Share | None = None

    @property
    def hold_needed(self) -> bool:
        """Requests find no replica for a while, though they did before."""
        return self.routed_before > 0 and self.routed_min == 0
