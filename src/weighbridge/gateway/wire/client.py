"""A caller's connection: requests in, one after the other, and the bytes of their answers out.

It frames, keeps time and holds back; what a request means is its visit's affair.
"""

import asyncio
from typing import Final, cast

from weighbridge.clock import Clock
from weighbridge.errors import InvalidError, WeighbridgeError
from weighbridge.gateway.wire.framing import ChunkedBody, LengthBody, request_body, too_large
from weighbridge.gateway.wire.heads import (
    HeadPattern,
    HeadPatterns,
    MalformedError,
    RequestHead,
    read_request_head,
)
from weighbridge.gateway.wire.limits import (
    AHEAD_BYTES_MAX,
    DISCARD_BYTES_MAX,
    HEAD_BYTES_MAX,
    WRITE_BUFFER_BYTES,
    Limits,
)
from weighbridge.gateway.wire.outbox import Outbox
from weighbridge.gateway.wire.replies import CONTINUE, http_date
from weighbridge.gateway.wire.timers import NOWHERE, TICK_S, Timers
from weighbridge.gateway.wire.visits import Phase, Site, Visit
from weighbridge.gateway.wire.writing import AnswerWriter

_NO_BODY: Final = LengthBody(0)
_HEAD_TOO_LARGE: Final = f"The head is over {HEAD_BYTES_MAX} bytes"
_IDLE: Final = Phase.IDLE
_HEAD: Final = Phase.HEAD
_BODY: Final = Phase.BODY
_ANSWERING: Final = Phase.ANSWERING
_CLOSED: Final = Phase.CLOSED


class ClientConnection(AnswerWriter):
    """Its phases are the table in `visits`. Requests sent ahead wait unread in `_ahead`, which is bounded."""

    __slots__ = (
        "_ahead", "_body", "_clients", "_decoder", "_discarded", "_limit", "_pattern", "_paused", "_phase",
        "_reading", "_skipped", "_stalled", "_started_s", "_visit", "due_s", "due_tick",
    )  # fmt: skip

    def __init__(self, clients: "Clients") -> None:
        super().__init__(clients.outbox)
        self.due_s = 0.0
        self.due_tick = NOWHERE
        self._clients = clients
        self._pattern: HeadPattern[RequestHead] | None = None
        self._phase = _IDLE
        self._ahead = b""
        self._visit: Visit | None = None
        self._decoder: LengthBody | ChunkedBody = _NO_BODY
        self._body: bytearray | None = None
        self._limit = 0
        self._started_s = 0.0
        self._discarded = 0
        self._reading = self._stalled = False
        self._paused = self._skipped = False

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are asyncio's in all but their class.
        transport = cast("asyncio.Transport", transport)
        self._lead(transport)
        transport.set_write_buffer_limits(WRITE_BUFFER_BYTES)
        self._clients.open.add(self)
        self.keep = not self._clients.retiring
        self._wait(self._clients.limits.keepalive_s)

    def data_received(self, data: bytes) -> None:
        phase = self._phase
        if phase <= _HEAD:
            self._ahead = self._ahead + data if self._ahead else data
            self._advance()
        elif phase is _BODY or phase is Phase.DISCARDING:
            self._body_bytes(data)
            self._advance()
        elif phase is Phase.CLOSING:
            self._discarded += len(data)
            if self._discarded > DISCARD_BYTES_MAX:
                self.abort()
        else:
            self._ahead += data
            if len(self._ahead) > AHEAD_BYTES_MAX and self._transport is not None:
                self._paused = True
                self._transport.pause_reading()

    def pause_writing(self) -> None:
        self._stalled = True
        self._wait(self._clients.limits.write_s)
        if self._visit is not None:
            self._visit.held_back()

    def resume_writing(self) -> None:
        self._stalled = False
        if self._visit is not None:
            self._visit.let_go()
        elif self._phase is Phase.FLUSHING:
            self._idle()
            self._advance()

    def connection_lost(self, exc: Exception | None) -> None:
        self._phase = _CLOSED
        self._clients.open.discard(self)
        self._clients.timers.clear(self)
        self._lead(None)
        visit, self._visit, self._ahead, self._body = self._visit, None, b"", None
        if visit is not None:
            visit.gone()

    # What the timers call.

    def expired(self) -> None:
        phase = self._phase
        if phase is _ANSWERING and not self._stalled:
            if self._visit is not None:
                self._visit.expired()
        elif phase is _HEAD:
            self._cannot_read(InvalidError("The head did not arrive in time", code="head_too_slow"))
        elif phase is _BODY and self._visit is not None:
            self.keep = False
            late = InvalidError("The body did not arrive in time", code="body_too_slow")
            self._visit.refuse(late)
        elif phase is _IDLE:
            self.close()
        else:
            self.abort()

    # What a visit calls.

    def deadline(self, due_s: float) -> None:
        if not self._stalled:
            self.due_s = due_s
            if due_s < self.due_tick * TICK_S:
                self._clients.timers.set(self, due_s)

    def _answered(self) -> None:
        if self._phase is _CLOSED:
            return
        self._visit = None
        whole = self._decoder.done
        if not self.keep:
            self._close_gently(all_read=whole and not self._ahead)
        elif not whole:
            self._phase = Phase.DISCARDING
            self._wait(self._clients.limits.discard_s)
        elif self._stalled:
            self._phase = Phase.FLUSHING
        else:
            self._phase = _IDLE
            due_s = self.due_s = self._clients.clock.monotonic() + self._clients.limits.keepalive_s
            if due_s < self.due_tick * TICK_S:
                self._clients.timers.set(self, due_s)
            if self._ahead or self._paused:
                self._advance()

    def close(self) -> None:
        if self._transport is not None:
            self._outbox.flush()
            self._transport.close()

    def retire(self) -> None:
        self.keep = False
        if self._phase is _IDLE:
            self.close()

    # Reading.

    def _advance(self) -> None:
        """Take up requests from what has been read, until one has to wait."""
        if self._reading:
            return
        self._reading = True
        try:
            while self._ahead and self._phase <= _HEAD:
                if not self._head():
                    break
        finally:
            self._reading = False
        if self._paused and self._phase <= _BODY and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    def _head(self) -> bool:
        """Whether a head was there to be read."""
        data, pattern = self._ahead, self._pattern
        if self._phase is _IDLE:
            self._started_s = self._clients.clock.monotonic()
        if pattern is not None and (start := pattern.read(data)):
            head = pattern.head
        else:
            if not self._skipped and data.startswith(b"\r\n"):
                # One empty line before a request is a habit of old clients (RFC 9112, 2.2).
                self._ahead = data = data[2:]
                self._skipped = True
            start = data.find(b"\r\n\r\n", 0, HEAD_BYTES_MAX + 4) + 4
            if start == 3:
                self._more_head(data)
                return False
            try:
                head = read_request_head(data[: start - 4])
            except MalformedError as error:
                self._cannot_read(error)
                return False
            self._pattern = self._clients.patterns.of(data[: start - 4], head)
        self._ahead, self._skipped = b"", False
        self._minor = head.minor
        self._bodyless = head.method == "HEAD"
        self.keep = head.keep and not self._clients.retiring
        self._begin(head, data, start)
        return True

    def _more_head(self, data: bytes) -> None:
        if len(data) > HEAD_BYTES_MAX:
            self._cannot_read(InvalidError(_HEAD_TOO_LARGE, code="headers_too_large"))
        elif data.count(b"\n") != data.count(b"\r\n"):
            self._cannot_read(MalformedError("A line of the head does not end with CR LF"))
        elif self._phase is _IDLE and data:
            self._phase = _HEAD
            self._clients.timers.set(self, self._started_s + self._clients.limits.head_s)

    def _begin(self, head: RequestHead, data: bytes, start: int) -> None:
        """`start` is where the body begins in `data`, or will."""
        visit = self._visit = self._clients.site.visit(head, self)
        size, received = head.size_bytes, len(data) - start
        self._phase, self._body, self._decoder = _BODY, None, _NO_BODY
        try:
            if size < 0 or size > received:
                self._decoder = LengthBody(size) if size > 0 else request_body(head)
            self._limit = visit.accept()
            if size > self._limit:
                raise too_large(self._limit)
            if size < 0:
                self._judge(head, received)
        except WeighbridgeError as error:
            if self._decoder is _NO_BODY and size > 0:
                self._decoder = LengthBody(size)
            self._refuse_early(error, data[start:])
            return
        if self._decoder is _NO_BODY:
            self._phase, self._ahead = _ANSWERING, data[start + size :]
            visit.start(data[start : start + size])
        elif self._decoder.done:
            self._whole(b"", data[start:])
        else:
            self._wait_for_body()
            if received:
                self._body_bytes(data[start:])

    def _judge(self, head: RequestHead, received: int) -> None:
        if isinstance(self._decoder, LengthBody) and self._decoder.left_bytes > self._limit:
            raise too_large(self._limit)
        expect = head.values.get("expect", "").lower()
        if expect not in ("", "100-continue"):
            raise InvalidError("Expect can only be 100-continue", code="expectation_failed")
        if expect and not received and not self._decoder.done and self._minor:
            self.write(CONTINUE)

    def _body_bytes(self, data: bytes) -> None:
        """More of a body, to keep or (DISCARDING) to read over."""
        decoder = self._decoder
        try:
            piece = decoder.feed(data)
        except MalformedError as error:
            self._refuse(error)
            return
        if self._phase is Phase.DISCARDING:
            self._discarded += len(data)
            if decoder.done:
                self._ahead = decoder.rest
                self._idle()
            elif self._discarded > DISCARD_BYTES_MAX:
                self.abort()
            return
        if self._body is None:
            if decoder.done and len(piece) <= self._limit:
                self._whole(piece, decoder.rest)
                return
            self._body = bytearray()
        self._body += piece
        if len(self._body) > self._limit:
            self._refuse(too_large(self._limit))
        elif decoder.done:
            self._whole(bytes(self._body), decoder.rest)
        else:
            self._wait_for_body()

    def _whole(self, body: bytes, rest: bytes) -> None:
        self._phase, self._ahead, self._body = _ANSWERING, rest, None
        if self._visit is not None:
            self._visit.start(body)

    # Refusing and ending.

    def _cannot_read(self, error: WeighbridgeError) -> None:
        self.keep, self._ahead = False, b""
        self._phase, self._decoder = _BODY, ChunkedBody()
        self._visit = self._clients.site.visit(None, self)
        self._visit.refuse(error)

    def _refuse_early(self, error: WeighbridgeError, received: bytes) -> None:
        """Before the body: what has come of it already is read over."""
        if self._decoder.done:
            self._ahead = received
        else:
            try:
                self._decoder.feed(received)
            except MalformedError:
                self.keep = False
        self._refuse(error)

    def _refuse(self, error: WeighbridgeError) -> None:
        """A short rest of the body may still come; else the connection ends with the answer."""
        self._body, self._discarded = None, 0
        if isinstance(error, MalformedError):
            # How much is still to come cannot be known.
            self.keep, self._decoder = False, ChunkedBody()
        decoder = self._decoder
        if decoder.done:
            self._phase = _ANSWERING
            self._ahead = self._ahead or decoder.rest
        elif isinstance(decoder, ChunkedBody) or decoder.left_bytes > AHEAD_BYTES_MAX:
            self.keep = False
        if self._visit is None:
            self.abort()  # the body it was to discard is malformed
        else:
            self._visit.refuse(error)

    def _close_gently(self, *, all_read: bool) -> None:
        self._ahead, self._phase, self._discarded = b"", Phase.CLOSING, 0
        if all_read:
            self._wait(self._clients.limits.write_s)
            self.close()
            return
        self._wait(self._clients.limits.discard_s)
        if self._transport is not None:
            self._outbox.flush()
            self._transport.write_eof()
            if self._paused:
                self._paused = False
                self._transport.resume_reading()

    def _date(self) -> bytes:
        return self._clients.date

    def _idle(self) -> None:
        if not self.keep:
            self.close()
            return
        self._phase = _IDLE
        self._wait(self._clients.limits.keepalive_s)

    def _wait(self, wait_s: float) -> None:
        self._clients.timers.set(self, self._clients.clock.monotonic() + wait_s)

    def _wait_for_body(self) -> None:
        limits, idle_s = self._clients.limits, self._clients.clock.monotonic() - self._started_s
        self.deadline(self._started_s + min(idle_s + limits.body_idle_s, limits.request_max_s))


class Clients:
    """The open connections of one listener, and what they share."""

    def __init__(
        self, site: Site, timers: Timers, outbox: Outbox, limits: Limits, clock: Clock
    ) -> None:
        self.site = site
        self.timers = timers
        self.outbox = outbox
        self.limits = limits
        self.clock = clock
        self.open: set[ClientConnection] = set()
        self.retiring = False
        self.patterns: HeadPatterns[RequestHead] = HeadPatterns()
        self.date = b""
        self.refresh()

    def connect(self) -> asyncio.Protocol:
        return cast("asyncio.Protocol", ClientConnection(self))

    def refresh(self) -> None:
        """The date of answers; twice a second is enough."""
        self.date = http_date(self.clock.now().timestamp())

    def retire(self) -> None:
        """Close what is idle now, and every other connection once it has its answer."""
        self.retiring = True
        for client in list(self.open):
            client.retire()

    def abort(self) -> None:
        for client in list(self.open):
            client.abort()
