"""Forwarding to the control plane: its paths, its answers, untouched but for hop-by-hop fields."""

from collections.abc import Container, Sequence
from typing import Final
from urllib.parse import urlsplit

from weighbridge.errors import SetupError, UnavailableError, WeighbridgeError
from weighbridge.gateway.metrics.access import AccessRecord
from weighbridge.gateway.proxy.answering import Answering, Desk
from weighbridge.gateway.wire.heads import AnswerHead, Fields, RequestHead
from weighbridge.gateway.wire.limits import CONTROL_BODY_BYTES_MAX
from weighbridge.gateway.wire.upstream import (
    UNREACHABLE,
    Address,
    UpstreamConnection,
    Upstreams,
)
from weighbridge.gateway.wire.writing import AnswerWriter
from weighbridge.settings import DataDir

SEGMENTS: Final = frozenset({"management", "admin", "api", "console", "openapi.json", "docs"})
"""First path segments that are the control plane's."""
ANSWER_IDLE_S: Final = 300.0
SILENT_S: Final = 5.0
"""An api that has not begun to answer for so long may hang: while there are others, they are asked first."""
SHUNNED_S: Final = 60.0
"""So long, or until it answers something."""
_REPEATABLE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing, so that another api may be asked as well."""
_HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
FORWARDED: Final = "x-weighbridge-forwarded"
"""A gateway that gets a request with this field asks its own control plane or nobody, so none goes in a circle."""
_NOT_SENT: Final = _HOP_BY_HOP | {"expect", "x-request-id", FORWARDED}
_NOT_PASSED_ON: Final = _HOP_BY_HOP | {"x-request-id"}


def is_control_path(path: str) -> bool:
    """`path` as it came, without the query; an encoded slash or letter does not count."""
    return path.startswith("/") and path[1:].partition("/")[0] in SEGMENTS


def control_addresses(urls: str) -> Sequence[Address]:
    """Of a list with commas, as in `http://one:8080,http://two:8080`. SetupError for anything else."""
    found = []
    for url in filter(None, (word.strip() for word in urls.split(","))):
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname or parts.path not in ("", "/"):
            raise SetupError(
                f"WEIGHBRIDGE_CONTROL_URLS holds {url!r}; each is http://host:port of a gateway beside an api.",
                code="control_urls",
            )
        found.append(Address(parts.hostname, parts.port or 80))
    return found


class ControlPlanes:
    """Who serves the API: processes of this machine, by their sockets, or gateways beside some; each in turn."""

    def __init__(self, paths: DataDir, elsewhere: Sequence[Address] = ()) -> None:
        self._paths = paths
        self._elsewhere = list(elsewhere)
        self._turn = 0
        self._shunned_until_s: dict[str, float] = {}

    def addresses(self, now_s: float, *, forwarded: bool = False) -> list[Address]:
        """Whom to try, one after the other; looked up anew, for such processes come and go.

        `forwarded`: by another gateway, so that no other is tried.
        """
        self._turn += 1
        here = [Address(unix_path=str(path)) for path in self._paths.api_sockets()]
        there = [] if forwarded else self._elsewhere
        found = self._in_turn(here) + self._in_turn(there)
        if not found:
            return [Address(unix_path=str(self._paths.control_socket))]
        names = {_name(address) for address in (*here, *self._elsewhere)}
        self._shunned_until_s = {
            name: until_s
            for name, until_s in self._shunned_until_s.items()
            if name in names and until_s > now_s
        }
        return sorted(found, key=lambda address: _name(address) in self._shunned_until_s)

    def is_silent(self, address: Address, now_s: float) -> None:
        """It has taken a request and does not begin to answer."""
        self._shunned_until_s[_name(address)] = now_s + SHUNNED_S

    def answers(self, address: Address) -> None:
        self._shunned_until_s.pop(_name(address), None)

    def _in_turn(self, found: list[Address]) -> list[Address]:
        first = self._turn % len(found) if found else 0
        return found[first:] + found[:first]


class ControlVisit(Answering):
    """Each request has a connection of its own. It goes to the next address where nothing was sent, and where it
    changes nothing and the answer does not begin.
    """

    __slots__ = (
        "_addresses",
        "_asked",
        "_head",
        "_passing",
        "_patient",
        "_planes",
        "_request",
        "_upstream",
        "_upstreams",
    )

    def __init__(
        self,
        desk: Desk,
        client: AnswerWriter,
        record: AccessRecord,
        head: RequestHead,
        *,
        upstreams: Upstreams,
        planes: ControlPlanes,
    ) -> None:
        super().__init__(desk, client, record)
        self._upstreams = upstreams
        self._planes = planes
        self._addresses = planes.addresses(
            desk.clock.monotonic(), forwarded=FORWARDED in head.values
        )
        self._asked = self._addresses[0]
        self._patient = False
        self._head = head
        self._request = b""
        self._upstream: UpstreamConnection | None = None
        self._passing = False

    def accept(self) -> int:
        return CONTROL_BODY_BYTES_MAX

    def start(self, body: bytes) -> None:
        head = self._head
        fields = _passable(head.fields, head.every("connection"), _NOT_SENT)
        fields += [("x-request-id", self.record.request_id), ("connection", "close")]
        fields.append((FORWARDED, "1"))
        if body or head.length is not None or "transfer-encoding" in head.values:
            fields.append(("content-length", str(len(body))))
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
        # The path goes on as it came: `models%3Aupload` must not become something else.
        start = f"{head.method} {head.target} HTTP/1.1\r\n{lines}\r\n"
        self._request = start.encode("latin-1") + body
        self._ask()

    def _ask(self) -> None:
        self._patient = False
        self._wait(SILENT_S)
        self._asked, method = self._addresses.pop(0), self._head.method
        self._upstream = self._upstreams.ask(self._asked, method, self._request, self, fresh=True)

    def refuse(self, error: WeighbridgeError) -> None:
        self._drop()
        super().refuse(error)

    def gone(self) -> None:
        self._drop()
        super().gone()

    def expired(self) -> None:
        if self._passing or self._patient:
            self._broke_off()
            return
        self._planes.is_silent(self._asked, self.desk.clock.monotonic())
        if self._addresses and self._head.method in _REPEATABLE:
            self._drop()
            self._ask()
        else:
            # What it has been asked to do may be done at any moment.
            self._patient = True
            self._wait(ANSWER_IDLE_S - SILENT_S)

    def held_back(self) -> None:
        if self._upstream is not None:
            self._upstream.pause()

    def let_go(self) -> None:
        if self._upstream is not None:
            self._upstream.resume()
            self._wait()

    def answer_head(self, head: AnswerHead, *, length_known: bool) -> None:
        fields = _passable(head.fields, [head.values.get("connection", "")], _NOT_PASSED_ON)
        if head.length is not None:
            fields.append(("content-length", head.length))
        fields.append(("x-request-id", self.record.request_id))
        self.record.status = head.status
        self._planes.answers(self._asked)
        self._passing = True
        self.client.pass_on(head, fields, length_known=length_known)
        self._wait()

    def answer_data(self, data: bytes) -> None:
        self.client.write_chunk(data)
        self._wait()

    def answer_whole(self, head: AnswerHead, body: bytes) -> None:
        self.answer_head(head, length_known=True)
        if body:
            self.answer_data(body)
        self.answer_end()

    def answer_end(self) -> None:
        self._upstream = None
        self.finish()
        self.client.end_stream()

    def answer_lost(self, error: UnavailableError) -> None:
        self._upstream = None
        if error.code == UNREACHABLE and self._addresses:
            self._ask()
        else:
            self._broke_off()

    def _broke_off(self) -> None:
        if self._passing:
            # The cut must show: without its end the answer cannot be taken for a whole one.
            self.client.abort()
            return
        self.refuse(
            UnavailableError(
                "The control plane is away; try again shortly", code="control_plane_away"
            )
        )

    def _drop(self) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.abort()

    def _wait(self, idle_s: float = ANSWER_IDLE_S) -> None:
        self.client.deadline(self.desk.clock.monotonic() + idle_s)


def _name(address: Address) -> str:
    return address.unix_path or f"{address.host}:{address.port}"


def _passable(fields: Fields, connection: Sequence[str], stopped: Container[str]) -> Fields:
    named = {option.strip(" \t").lower() for line in connection for option in line.split(",")}
    return [
        (name, value)
        for name, value in fields
        if name not in stopped and name not in named and not name.startswith("x-forwarded-")
    ]
