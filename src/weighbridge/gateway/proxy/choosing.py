"""Which replica a request goes to now: current routes, shared load counts, and who failed a moment ago."""

import random
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Final

import structlog

from weighbridge.clock import monotonic_s
from weighbridge.errors import LimitError, WeighbridgeError
from weighbridge.gateway.affinity.rendezvous import pick_by_key
from weighbridge.gateway.balance import groups, pick
from weighbridge.gateway.proxy.failures import is_gone
from weighbridge.gateway.table import CurrentTables
from weighbridge.routing.acks import GatewayView, sum_slot
from weighbridge.routing.model import EndpointRoute, ReplicaRoute, TrafficShare

log = structlog.get_logger()

COLUMNS_REFRESH_S: Final = 0.5
COOLING_S: Final = 1.0


class Choice:
    """Holds what a choice depends on besides the tables: load columns, and replicas that have failed a moment ago.

    A replica that has just failed gets nothing for `cooling_s` while another is there: it has no requests in
    flight, so the least-loaded rule alone would send it every one.
    """

    def __init__(
        self, current: CurrentTables, view: GatewayView, cooling_s: float = COOLING_S
    ) -> None:
        self._current = current
        self._view = view
        self._cooling_s = cooling_s
        self._load: Callable[[int], int]
        self._cooling: dict[str, float] = {}
        self._gone: dict[str, float] = {}
        self._look()

    def refresh(self) -> None:
        """See which workers live and which replicas have cooled; twice a second is enough."""
        self._look()
        now_s = monotonic_s()
        self._cooling = {name: until for name, until in self._cooling.items() if until > now_s}
        self._gone = {name: until for name, until in self._gone.items() if until > now_s}

    def failed(self, replica: ReplicaRoute, why: WeighbridgeError) -> None:
        log.warning("replica.failed", replica_id=replica.replica_id, reason=why.message)
        until_s = self._cooling[replica.replica_id] = monotonic_s() + self._cooling_s
        if is_gone(why):
            self._gone[replica.replica_id] = until_s

    def replica(
        self, endpoint: EndpointRoute, tried: Collection[str], affinity: str | None = None
    ) -> ReplicaRoute | None:
        """By the newest table, so that a retry never goes to what has been unrouted since (G5). Requests of one
        `affinity` go to one replica while its load allows.

        Raises LimitError when even the least loaded replica is full.
        """
        newest = self._current.tables.endpoints.get(endpoint.endpoint_id)
        if newest is None or newest.org_id != endpoint.org_id:
            return None
        cooling: set[str] = set()
        if self._cooling:
            now_s = monotonic_s()
            cooling = {name for name, until in self._cooling.items() if until > now_s}
        load = self._load
        excluded = cooling.union(tried) if cooling else tried
        chosen = None
        if newest.share is not None:
            chosen = _by_share(newest, newest.share, load, excluded, affinity)
        if chosen is None:
            chosen = _pick(newest.replicas, load, excluded, affinity)
        if chosen is None and cooling:
            chosen = _pick(newest.replicas, load, tried, affinity)
        if chosen is not None and load(chosen.slot) >= newest.in_flight_max:
            raise LimitError(
                f"Every replica of {newest.endpoint_id} is busy; try again shortly",
                code="queue_exceeded",
            )
        return chosen

    def ready(self, endpoint_id: str) -> bool:
        """Whether the endpoint has a replica that was not gone a moment ago; one that has answered wrongly is there."""
        newest = self._current.tables.endpoints.get(endpoint_id)
        now_s = monotonic_s()
        return newest is not None and any(
            self._gone.get(replica.replica_id, 0.0) <= now_s for replica in newest.replicas
        )

    def _look(self) -> None:
        columns = self._view.columns()
        self._load = columns[0].__getitem__ if len(columns) == 1 else partial(sum_slot, columns)


def _by_share(
    endpoint: EndpointRoute,
    share: TrafficShare,
    load: Callable[[int], int],
    excluded: Collection[str],
    affinity: str | None,
) -> ReplicaRoute | None:
    """Who is not full, of the versions in the order of the share; None when nobody is."""
    for group in groups(endpoint.replicas, share, random.random()):  # noqa: S311 - no secret
        chosen = _pick(group, load, excluded, affinity)
        if chosen is not None and load(chosen.slot) < endpoint.in_flight_max:
            return chosen
    return None


def _pick(
    replicas: Sequence[ReplicaRoute],
    load: Callable[[int], int],
    excluded: Collection[str],
    affinity: str | None,
) -> ReplicaRoute | None:
    if affinity is not None:
        return pick_by_key(replicas, load, affinity, excluded)
    return pick(replicas, load, random.random(), excluded)  # noqa: S311 - no secret
