"""Requests to replicas: chosen, counted and sent; nothing of the caller's head goes along."""

from collections.abc import Collection
from urllib.parse import urlsplit

from msgspec import Struct

from weighbridge.errors import WeighbridgeError
from weighbridge.gateway.limits.holds import Holds
from weighbridge.gateway.proxy.choosing import Choice
from weighbridge.gateway.wire.upstream import Address, Asker, UpstreamConnection, Upstreams
from weighbridge.routing.acks import WorkerColumn
from weighbridge.routing.model import EndpointRoute, ReplicaRoute
from weighbridge.routing.tokens import replica_token

_KEPT_MAX = 4096


class _Known(Struct, frozen=True):
    """What does not change between requests to one replica."""

    address: Address
    path_prefix: str
    fields: bytes


class Replicas:
    """The worker's way to every replica."""

    def __init__(
        self,
        choice: Choice,
        holds: Holds,
        column: WorkerColumn,
        upstreams: Upstreams,
        pepper: bytes,
    ) -> None:
        self.choice = choice
        self.holds = holds
        self.counts = column.counts
        self._upstreams = upstreams
        self._pepper = pepper
        self._known: dict[tuple[str, str], _Known] = {}

    def choose(
        self, endpoint: EndpointRoute, tried: Collection[str], affinity: str | None
    ) -> ReplicaRoute | None:
        """Raises LimitError when even the least loaded replica is full."""
        return self.choice.replica(endpoint, tried, affinity)

    def failed(self, replica: ReplicaRoute, why: WeighbridgeError) -> None:
        self.choice.failed(replica, why)

    def ask(
        self,
        replica: ReplicaRoute,
        path: str,
        body: bytes,
        request_id: str,
        asker: Asker,
        *,
        fresh: bool,
    ) -> UpstreamConnection:
        known = self._known.get((replica.replica_id, replica.url)) or self._learn(replica)
        head = f"POST {known.path_prefix}{path} HTTP/1.1\r\nx-request-id: {request_id}\r\n"
        request = b"%b%bcontent-length: %d\r\n\r\n%b" % (
            head.encode(),
            known.fields,
            len(body),
            body,
        )
        return self._upstreams.ask(known.address, "POST", request, asker, fresh=fresh)

    def _learn(self, replica: ReplicaRoute) -> _Known:
        url = urlsplit(replica.url)
        fields = (
            f"host: {url.netloc}\r\n"
            f"authorization: Bearer {replica_token(self._pepper, replica.replica_id)}\r\n"
            "accept: */*\r\n"
            "accept-encoding: identity\r\n"
            "content-type: application/json\r\n"
        )
        known = _Known(
            Address(url.hostname or "", url.port or 80), url.path.rstrip("/"), fields.encode()
        )
        if len(self._known) >= _KEPT_MAX:
            self._known.clear()
        self._known[replica.replica_id, replica.url] = known
        return known
