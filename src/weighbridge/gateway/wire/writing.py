"""The writing half of a caller's connection, as a visit sees it: an answer's head and body, whole or in chunks."""

import asyncio
from abc import abstractmethod
from collections.abc import Callable
from typing import Final

from weighbridge.gateway.wire.framing import chunk
from weighbridge.gateway.wire.heads import AnswerHead, Fields
from weighbridge.gateway.wire.outbox import Outbox
from weighbridge.gateway.wire.replies import LAST_CHUNK, STATUS_LINES, foreign_head, reply_head

_CLOSE: Final = b"connection: close\r\n"


def _nowhere(_data: bytes) -> None:
    """For a connection that is not there."""


class AnswerWriter:
    """How it writes follows from the request: its version, its method, and whether the connection is kept.

    Once the visit is `gone` all of it does nothing. A class and no protocol, so that compiled visits call it directly;
    an `asyncio.Protocol` but for its base: with one that is not compiled a class could not be a native one.
    """

    __slots__ = ("_bodyless", "_chunked", "_minor", "_outbox", "_transport", "_write", "keep")

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self.keep = True
        self._transport: asyncio.Transport | None = None
        self._write: Callable[[bytes], None] = _nowhere
        self._minor = 1
        self._bodyless = False
        self._chunked = False

    def _lead(self, transport: asyncio.Transport | None) -> None:
        """Where bytes go from now on; a transport that is lost drops them until the loop says that it is."""
        self._transport = transport
        self._write = _nowhere if transport is None else transport.write

    def eof_received(self) -> None:
        """Whoever ends one half ends both."""

    @abstractmethod
    def deadline(self, due_s: float) -> None:
        """Monotonic; the visit's `expired` is called then, unless it waits for the caller to read."""

    def answer(self, status: int, fields: bytes, body: bytes) -> None:
        """A whole answer; each of `fields` ends with CR LF."""
        if self._transport is not None:
            answer = b"%b%b\r\n%bcontent-length: %d\r\n%b\r\n%b" % (
                STATUS_LINES[status],
                self._date(),
                fields,
                len(body),
                self._closing_line(),
                b"" if self._bodyless else body,
            )
            self._outbox.put(self._transport, answer)
        self._answered()

    def begin_stream(self, fields: bytes, first: bytes) -> None:
        self._chunked = self._minor == 1
        coding = b"transfer-encoding: chunked\r\n" if self._chunked else b""
        lines = b"%b%b%b" % (fields, coding, self._closing_line())
        # An earlier answer may still wait there; this one does not.
        self._outbox.flush()
        self._send(reply_head(200, self._date(), lines) + self._framed(first))

    def write_chunk(self, data: bytes) -> None:
        """One piece, never empty, of an answer whose length was not said.

        Not by the outbox, which is empty of this answer: events come one by one, nothing is to be waited for.
        """
        self._write(chunk(data) if self._chunked else data)

    def end_stream(self, last: bytes = b"") -> None:
        """`last` is one more piece, sent together with the end; it may be empty."""
        if last:
            last = self._framed(last)
        self._send(last + LAST_CHUNK if self._chunked else last)
        self._answered()

    def pass_on(self, head: AnswerHead, fields: Fields, *, length_known: bool) -> None:
        """Begin another server's answer; its body follows by `write_chunk` and `end_stream`."""
        self._chunked = not length_known and self._minor == 1
        self.keep = self.keep and (length_known or self._chunked)
        if self._chunked:
            fields = [*fields, ("transfer-encoding", "chunked")]
        if not self.keep:
            fields = [*fields, ("connection", "close")]
        self.write(foreign_head(head.status, head.reason, fields))
        self._outbox.flush()

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._outbox.put(self._transport, data)

    def abort(self) -> None:
        """End the connection so that a cut answer cannot be taken for a whole one."""
        if self._transport is not None:
            self._transport.abort()

    def _framed(self, data: bytes) -> bytes:
        return chunk(data) if self._chunked else data

    def _send(self, data: bytes) -> None:
        """At once; `data` may be empty."""
        self._write(data)

    def _closing_line(self) -> bytes:
        return b"" if self.keep else _CLOSE

    @abstractmethod
    def _date(self) -> bytes: ...

    @abstractmethod
    def _answered(self) -> None:
        """All of the answer has been written; the visit hears nothing more."""
