"""What a caller's connection and the visits of its requests know of each other, and the connection's phases."""

from enum import IntEnum
from typing import Protocol

from weighbridge.errors import WeighbridgeError
from weighbridge.gateway.wire.heads import AnswerHead, Fields, RequestHead


class Client(Protocol):
    """A caller's connection as a visit sees it. Once the visit is `gone` all of it does nothing."""

    def deadline(self, due_s: float) -> None:
        """Monotonic; the visit's `expired` is called then, unless it waits for the caller to read."""

    def answer(self, status: int, fields: bytes, body: bytes) -> None:
        """A whole answer; each of `fields` ends with CR LF."""

    def begin_stream(self, fields: bytes, first: bytes) -> None: ...

    def write_chunk(self, data: bytes) -> None:
        """One piece, never empty, of an answer whose length was not said."""

    def end_stream(self, last: bytes = b"") -> None:
        """`last` is one more piece, sent together with the end; it may be empty."""

    def pass_on(self, head: AnswerHead, fields: Fields, *, length_known: bool) -> None:
        """Begin another server's answer; its body follows by `write_chunk` and `end_stream`."""

    def abort(self) -> None:
        """End the connection so that a cut answer cannot be taken for a whole one."""


class Visit(Protocol):
    """One request from its head to its end, as a connection sees it. It ends by an answer, or by `gone`."""

    def accept(self) -> int:
        """The head is whole: say how many bytes of body may come, or raise what to refuse with."""

    def start(self, body: bytes) -> None:
        """The body is whole. Never raises."""

    def refuse(self, error: WeighbridgeError) -> None:
        """Answer with this error, at once."""

    def gone(self) -> None:
        """The caller has left; nothing can be answered any more."""

    def expired(self) -> None:
        """The deadline that this visit has set on its connection has passed."""

    def held_back(self) -> None:
        """The caller reads slower than it is written to."""

    def let_go(self) -> None:
        """The caller has caught up."""


class Site(Protocol):
    def visit(self, head: RequestHead | None, client: "Client") -> Visit:
        """None stands for a head that cannot be read."""


class Phase(IntEnum):
    IDLE = 0
    """Nothing of a request is there."""
    HEAD = 1
    """Some of a head."""
    BODY = 2
    """A head was accepted; its body is not whole."""
    ANSWERING = 3
    FLUSHING = 4
    """Answered, but the caller has not taken the answer yet, so no other request is begun."""
    DISCARDING = 5
    """Answered before the body's end; the rest is read over, then the next request."""
    CLOSING = 6
    """Answered for the last time; what comes is read over, so that the answer is not lost in a reset."""
    CLOSED = 7


TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    Phase.IDLE: frozenset({Phase.HEAD, Phase.BODY, Phase.ANSWERING, Phase.CLOSED}),
    Phase.HEAD: frozenset({Phase.BODY, Phase.ANSWERING, Phase.CLOSED}),
    Phase.BODY: frozenset({Phase.ANSWERING, Phase.DISCARDING, Phase.CLOSING, Phase.CLOSED}),
    Phase.ANSWERING: frozenset({Phase.IDLE, Phase.FLUSHING, Phase.CLOSING, Phase.CLOSED}),
    Phase.FLUSHING: frozenset({Phase.IDLE, Phase.CLOSED}),
    Phase.DISCARDING: frozenset({Phase.IDLE, Phase.FLUSHING, Phase.CLOSING, Phase.CLOSED}),
    Phase.CLOSING: frozenset({Phase.CLOSED}),
    Phase.CLOSED: frozenset(),
}
