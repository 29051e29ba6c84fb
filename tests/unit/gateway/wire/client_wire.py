"""A caller's connection without a network: a clock to turn, a transport to read, a site that answers at will."""

import asyncio
from dataclasses import dataclass, field

from weighbridge.clock import Clock
from weighbridge.errors import WeighbridgeError
from weighbridge.gateway.errors import error_answer
from weighbridge.gateway.wire.client import ClientConnection, Clients
from weighbridge.gateway.wire.heads import RequestHead
from weighbridge.gateway.wire.limits import Limits
from weighbridge.gateway.wire.outbox import Outbox
from weighbridge.gateway.wire.timers import Timers

BODY_BYTES_MAX = 1000


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.reading = True
        self.closed = self.aborted = self.ended = False
        self.connection: ClientConnection | None = None

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def write(self, data: bytes) -> None:
        assert not self.ended
        self.sent += data

    def write_eof(self) -> None:
        self.ended = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.connection.connection_lost(None)

    def abort(self) -> None:
        self.aborted = True
        self.close()


@dataclass
class Visit:
    head: RequestHead | None
    client: ClientConnection
    answers_at_once: bool
    body: bytes | None = None
    refused: str = ""
    events: list[str] = field(default_factory=list)

    def accept(self) -> int:
        return BODY_BYTES_MAX

    def start(self, body: bytes) -> None:
        self.body = body
        if self.answers_at_once:
            self.client.answer(200, b"", body)

    def refuse(self, error: WeighbridgeError) -> None:
        self.refused = error.code
        self.client.answer(error_answer(error).status, b"", b"")

    def gone(self) -> None:
        self.events.append("gone")

    def expired(self) -> None:
        self.events.append("expired")

    def held_back(self) -> None:
        self.events.append("held_back")

    def let_go(self) -> None:
        self.events.append("let_go")


class Wire:
    """One connection. `receive` gives it bytes, `wait` lets time pass; `visits` is what the site was asked."""

    def __init__(self, *, answers_at_once: bool = True, limits: Limits | None = None) -> None:
        self.now_s = 1000.0
        self.answers_at_once = answers_at_once
        self.visits: list[Visit] = []
        self.timers = Timers(self.now_s)
        clock = Clock(monotonic=lambda: self.now_s)
        outbox = Outbox(lambda flush: flush())
        self.clients = Clients(self, self.timers, outbox, limits or Limits(), clock)
        self.transport = Transport()
        self.connection = self.transport.connection = self.clients.connect()
        self.connection.connection_made(self.transport)

    def visit(self, head: RequestHead | None, client: ClientConnection) -> Visit:
        self.visits.append(Visit(head, client, self.answers_at_once))
        return self.visits[-1]

    def receive(self, data: bytes) -> None:
        if not self.transport.closed:
            self.connection.data_received(data)

    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self.timers.advance(self.now_s)

    @property
    def asked(self) -> list[tuple[str, str, bytes]]:
        """Method, target and body of the requests that were read whole."""
        return [
            (visit.head.method, visit.head.target, visit.body)
            for visit in self.visits
            if visit.head is not None and visit.body is not None
        ]
