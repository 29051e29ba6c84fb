"""What a caller's connection and the visits of its requests know of each other, and the connection's phases."""

from enum import IntEnum
from typing import Final, Protocol

from weighbridge.errors import WeighbridgeError
from weighbridge.gateway.wire.heads import RequestHead
from weighbridge.gateway.wire.writing import AnswerWriter


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
    def visit(self, head: RequestHead | None, client: AnswerWriter) -> Visit:
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


TRANSITIONS: Final[dict[Phase, frozenset[Phase]]] = {
    Phase.IDLE: frozenset({Phase.HEAD, Phase.BODY, Phase.ANSWERING, Phase.CLOSED}),
    Phase.HEAD: frozenset({Phase.BODY, Phase.ANSWERING, Phase.CLOSED}),
    Phase.BODY: frozenset({Phase.ANSWERING, Phase.DISCARDING, Phase.CLOSING, Phase.CLOSED}),
    Phase.ANSWERING: frozenset({Phase.IDLE, Phase.FLUSHING, Phase.CLOSING, Phase.CLOSED}),
    Phase.FLUSHING: frozenset({Phase.IDLE, Phase.CLOSED}),
    Phase.DISCARDING: frozenset({Phase.IDLE, Phase.FLUSHING, Phase.CLOSING, Phase.CLOSED}),
    Phase.CLOSING: frozenset({Phase.CLOSED}),
    Phase.CLOSED: frozenset(),
}
