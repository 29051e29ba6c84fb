"""Connections to upstreams: one request at a time on each, kept for the next one, and what their failure means."""

import asyncio
from enum import IntEnum
from typing import Final, cast

from weighbridge.clock import monotonic_s
from weighbridge.errors import UnavailableError
from weighbridge.gateway.wire.framing import Body, ChunkedBody, LengthBody, answer_body
from weighbridge.gateway.wire.heads import (
    AnswerHead,
    HeadPattern,
    HeadPatterns,
    KnownHeads,
    MalformedError,
)
from weighbridge.gateway.wire.limits import (
    HEAD_BYTES_MAX,
    INTERIM_ANSWERS_MAX,
    TAIL_S,
    UPSTREAM_IDLE_MAX,
    UPSTREAM_KEEPALIVE_S,
)
from weighbridge.gateway.wire.outbox import Outbox
from weighbridge.gateway.wire.timers import NOWHERE, TICK_S, Timers
from weighbridge.structs import Handle

UNREACHABLE: Final = "upstream_unreachable"
"""Code of the error when nothing was sent."""


class Address(Handle, frozen=True, eq=False):
    """A TCP host and port, or the path of a unix socket. Idle connections belong to this very object."""

    host: str = ""
    port: int = 0
    unix_path: str = ""


class Asker:
    """Who gets the answer. After `answer_end` or `answer_lost` it hears no more; who never asks hears nothing.

    A class and no protocol, so that compiled connections call it directly.
    """

    __slots__ = ()

    def answer_head(self, head: AnswerHead, *, length_known: bool) -> None:
        """The answer has begun."""

    def answer_data(self, data: bytes) -> None:
        """More of its body, never empty."""

    def answer_whole(self, head: AnswerHead, body: bytes) -> None:
        """All of an answer of status 200 at once, instead of the other three calls."""

    def answer_end(self) -> None:
        """That was all of it."""

    def answer_lost(self, error: UnavailableError) -> None:
        """It does not come, or not to its end."""


class Phase(IntEnum):
    CONNECTING = 0
    HEAD = 1
    """Asked; the answer's head is not whole."""
    BODY = 2
    IDLE = 3
    """In its pool."""
    CLOSED = 4


TRANSITIONS: Final[dict[Phase, frozenset[Phase]]] = {
    Phase.CONNECTING: frozenset({Phase.HEAD, Phase.CLOSED}),
    Phase.HEAD: frozenset({Phase.BODY, Phase.IDLE, Phase.CLOSED}),
    Phase.BODY: frozenset({Phase.IDLE, Phase.CLOSED}),
    Phase.IDLE: frozenset({Phase.HEAD, Phase.CLOSED}),
    Phase.CLOSED: frozenset(),
}
_NO_BODY: Final = LengthBody(0)
_CONNECTING: Final = Phase.CONNECTING
_HEAD: Final = Phase.HEAD
_BODY: Final = Phase.BODY
_IDLE: Final = Phase.IDLE
_CLOSED: Final = Phase.CLOSED


class Upstreams:
    """A worker's connections to all upstreams, with a pool of idle ones for each address."""

    def __init__(self, timers: Timers, outbox: Outbox, connect_s: float) -> None:
        self.timers = timers
        self.outbox = outbox
        self._connect_s = connect_s
        self._idle: dict[Address, list[UpstreamConnection]] = {}
        self.patterns: HeadPatterns[AnswerHead] = HeadPatterns()
        self.heads = KnownHeads()
        self._connecting: set[asyncio.Task[None]] = set()

    def ask(
        self, address: Address, method: str, request: bytes, asker: Asker, *, fresh: bool = False
    ) -> "UpstreamConnection":
        """Send a whole request; `fresh` takes no connection that was used before."""
        idle = self._idle.get(address)
        if idle and not fresh:
            connection = idle.pop()
        else:
            connection = UpstreamConnection(self, address)
            task = asyncio.get_running_loop().create_task(self._connect(connection))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)
        connection.ask(method, request, asker)
        return connection

    def keep(self, connection: "UpstreamConnection") -> bool:
        """Whether there is room for one more idle connection."""
        idle = self._idle.setdefault(connection.address, [])
        if len(idle) >= UPSTREAM_IDLE_MAX:
            return False
        idle.append(connection)
        return True

    def drop(self, connection: "UpstreamConnection") -> None:
        idle = self._idle.get(connection.address, [])
        if connection in idle:
            idle.remove(connection)
        if not idle:
            self._idle.pop(connection.address, None)

    async def close(self) -> None:
        for task in list(self._connecting):
            task.cancel()
        await asyncio.gather(*self._connecting, return_exceptions=True)
        for idle in list(self._idle.values()):
            for connection in list(idle):
                connection.abort()

    async def _connect(self, connection: "UpstreamConnection") -> None:
        loop, address = asyncio.get_running_loop(), connection.address
        protocol = cast("asyncio.Protocol", connection)
        try:
            async with asyncio.timeout(self._connect_s):
                if address.unix_path:
                    await loop.create_unix_connection(lambda: protocol, address.unix_path)
                else:
                    await loop.create_connection(lambda: protocol, address.host, address.port)
        except OSError as error:
            # TimeoutError is one of them.
            connection.lost(f"cannot be reached: {type(error).__name__}")


class UpstreamConnection:
    """`reused` and `began` tell a connection that had been closed unnoticed from an upstream that fails.

    As with `AnswerWriter`, only the base of an `asyncio.Protocol` is missing.
    """

    __slots__ = (
        "_asker", "_chunks", "_decoder", "_held", "_interim", "_keep", "_method", "_pattern", "_phase", "_request",
        "_transport", "_upstreams", "address", "began", "due_s", "due_tick", "reused",
    )  # fmt: skip

    def __init__(self, upstreams: Upstreams, address: Address) -> None:
        self.address = address
        self.reused = False
        self.began = False
        self.due_s = 0.0
        self.due_tick = NOWHERE
        self._upstreams = upstreams
        self._transport: asyncio.Transport | None = None
        self._phase = _CONNECTING
        self._asker: Asker | None = None
        self._request = b""
        self._method = ""
        self._held = b""
        self._interim = 0
        self._keep = False
        self._pattern: HeadPattern[AnswerHead] | None = None
        self._decoder: Body = _NO_BODY
        self._chunks: ChunkedBody | None = None

    # What the asker calls.

    def ask(self, method: str, request: bytes, asker: Asker) -> None:
        self._asker, self._method = asker, method
        self._held, self._interim, self.began = b"", 0, False
        if self._transport is None:
            self._request = request
        else:
            self._phase, self.reused = _HEAD, True
            self._upstreams.outbox.put(self._transport, request)

    def pause(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def finish(self) -> None:
        """The asker needs no more; read on for a moment, so that the connection can be used again."""
        self._asker = None
        if self._phase is _BODY:
            self.resume()
            if not self._decoder.done:
                self._upstreams.timers.set(self, monotonic_s() + TAIL_S)

    def abort(self) -> None:
        """Close now; the asker hears nothing more. An engine stops generating then (G4)."""
        self._asker = None
        self._phase = _CLOSED
        if self._transport is not None:
            self._transport.abort()

    # What the timers call: an idle connection is old, or a tail does not end.

    def expired(self) -> None:
        if self._phase is _IDLE or (self._phase is _BODY and self._asker is None):
            self._upstreams.drop(self)
            self.abort()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are asyncio's in all but their class.
        transport = cast("asyncio.Transport", transport)
        self._transport = transport
        if self._asker is None:
            transport.abort()
            return
        request, self._request = self._request, b""
        self._phase = _HEAD
        self._upstreams.outbox.put(transport, request)

    def data_received(self, data: bytes) -> None:
        if self._phase is _BODY:
            chunks, asker = self._chunks, self._asker
            if chunks is not None and asker is not None and (piece := chunks.feed_one(data)):
                asker.answer_data(piece)
            else:
                self._feed(data)
        elif self._phase is _HEAD:
            self.began = True
            pattern = self._pattern
            if pattern is not None and not self._held and (start := pattern.read(data)):
                head = pattern.head
                if head.size_bytes == len(data) - start and self._may_be_whole(head):
                    self._whole(head, data[start:])
                    return
            self._held = self._held + data if self._held else data
            self._read_head()
        else:
            # Nobody asked.
            self._upstreams.drop(self)
            self.abort()

    def eof_received(self) -> None:
        """An upstream that ends one half ends both."""

    def pause_writing(self) -> None:
        """A request is written whole, whatever is in the buffer."""

    def resume_writing(self) -> None:
        """As `pause_writing`."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._upstreams.timers.clear(self)
        if self._phase is _IDLE:
            self._upstreams.drop(self)
        elif self._phase is _BODY and exc is None and self._decoder.ends_at_close():
            self._phase = _CLOSED
            asker, self._asker = self._asker, None
            if asker is not None:
                asker.answer_end()
        self.lost("broke off its answer" if self.began else "hung up before its answer")
        self._transport = None

    def lost(self, why: str) -> None:
        code = UNREACHABLE if self._phase is _CONNECTING else "answer_cut"
        self._phase = _CLOSED
        asker, self._asker = self._asker, None
        if self._transport is not None:
            self._transport.abort()
        if asker is not None:
            asker.answer_lost(UnavailableError(f"An upstream {why}", code=code))

    def _read_head(self) -> None:
        while self._phase is _HEAD:
            data = self._held
            end = data.find(b"\r\n\r\n", 0, HEAD_BYTES_MAX + 4)
            if end == -1:
                if len(data) > HEAD_BYTES_MAX:
                    self.lost("sent too large a head")
                return
            try:
                head = self._upstreams.heads.read(data[:end])
                if head.status < 200:
                    self._skip_interim(head.status)
                    self._held = data[end + 4 :]
                    continue
                decoder = self._decoder = answer_body(head, self._method)
                self._chunks = decoder if isinstance(decoder, ChunkedBody) else None
            except MalformedError as error:
                self.lost(f"sent what is not HTTP: {error.message}")
                return
            self._held = b""
            self._pattern = self._upstreams.patterns.of(data[:end], head)
            if head.size_bytes == len(data) - end - 4 and self._may_be_whole(head):
                self._whole(head, data[end + 4 :])
                return
            self._phase = _BODY
            self._keep = head.keep
            known = isinstance(self._decoder, LengthBody)
            if self._asker is not None:
                self._asker.answer_head(head, length_known=known)
            self._feed(data[end + 4 :])

    def _may_be_whole(self, head: AnswerHead) -> bool:
        return head.status == 200 and self._method != "HEAD"

    def _whole(self, head: AnswerHead, body: bytes) -> None:
        """The commonest answer: all of it in one piece."""
        asker, self._asker = self._asker, None
        self._phase = _BODY
        if head.keep and self._upstreams.keep(self):
            self._phase = _IDLE
            self.due_s = monotonic_s() + UPSTREAM_KEEPALIVE_S
            if self.due_s < self.due_tick * TICK_S:
                self._upstreams.timers.set(self, self.due_s)
        else:
            self.abort()
        if asker is not None:
            asker.answer_whole(head, body)

    def _skip_interim(self, status: int) -> None:
        self._interim += 1
        if status == 101 or self._interim > INTERIM_ANSWERS_MAX:
            raise MalformedError("an interim answer that was not asked for")

    def _feed(self, data: bytes) -> None:
        if self._phase is not _BODY:
            return  # the head was enough for the asker
        decoder = self._decoder
        if data:
            if decoder.done:
                piece, self._keep = b"", False
            else:
                try:
                    piece = decoder.feed(data)
                except MalformedError as error:
                    self.lost(f"sent what is not HTTP: {error.message}")
                    return
            if piece and self._asker is not None:
                self._asker.answer_data(piece)
        if decoder.done and self._phase is _BODY:
            self._end()

    def _end(self) -> None:
        asker, self._asker = self._asker, None
        if self._keep and not self._decoder.rest and self._upstreams.keep(self):
            self._phase = _IDLE
            self._upstreams.timers.set(self, monotonic_s() + UPSTREAM_KEEPALIVE_S)
        else:
            self.abort()
        if asker is not None:
            asker.answer_end()
