"""Requests to replicas: counted and sent; nothing of the caller's head goes along."""

from typing import Final
from urllib.parse import urlsplit

from weighbridge.gateway.limits.holds import Holds
from weighbridge.gateway.proxy.choosing import Choice
from weighbridge.gateway.requests.writing import model_member
from weighbridge.gateway.wire.upstream import Address, Asker, UpstreamConnection, Upstreams
from weighbridge.routing.acks import WorkerColumn
from weighbridge.routing.model import ReplicaRoute
from weighbridge.routing.tokens import replica_token
from weighbridge.structs import Frozen

_KEPT_MAX: Final = 4096


class _Known(Frozen, frozen=True):
    """What does not change between requests to one replica."""

    route: ReplicaRoute
    address: Address
    path_prefix: str
    lines: dict[str, bytes]
    """Of each path: the first lines of a request, up to the value of x-request-id."""
    fields: bytes
    """What follows that, up to the value of Content-Length."""
    model: bytes
    """How the body begins."""


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
        self._known: dict[str, _Known] = {}

    def ask(
        self,
        replica: ReplicaRoute,
        path: str,
        rest: bytes,
        request_id: str,
        asker: Asker,
        *,
        fresh: bool,
    ) -> UpstreamConnection:
        """`rest` is the body without its model (`requests.writing.write_body`)."""
        known = self._known.get(replica.replica_id)
        if known is None or known.route is not replica:
            known = self._learn(replica)
        lines = known.lines.get(path)
        if lines is None:
            lines = f"POST {known.path_prefix}{path} HTTP/1.1\r\nx-request-id: ".encode()
            known.lines[path] = lines
        model = known.model
        request = b"%b%b%b%d\r\n\r\n%b%b" % (
            lines,
            request_id.encode(),
            known.fields,
            len(model) + len(rest),
            model,
            rest,
        )
        return self._upstreams.ask(known.address, "POST", request, asker, fresh=fresh)

    def _learn(self, replica: ReplicaRoute) -> _Known:
        """A newer table has the same replica as another object."""
        before = self._known.get(replica.replica_id)
        url = urlsplit(replica.url)
        fields = (
            f"\r\nhost: {url.netloc}\r\n"
            f"authorization: Bearer {replica_token(self._pepper, replica.replica_id)}\r\n"
            "accept: */*\r\n"
            "accept-encoding: identity\r\n"
            "content-type: application/json\r\n"
            "content-length: "
        )
        known = _Known(
            replica,
            # Its idle connections are found by the address.
            before.address
            if before is not None and before.route.url == replica.url
            else Address(url.hostname or "", url.port or 80),
            url.path.rstrip("/"),
            {},
            fields.encode(),
            model_member(replica.served_name),
        )
        if len(self._known) >= _KEPT_MAX:
            self._known.clear()
        self._known[replica.replica_id] = known
        return known
