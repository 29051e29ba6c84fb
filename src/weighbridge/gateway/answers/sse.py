"""Server-sent events: a small state machine from bytes to events. It knows nothing of what the events say."""

from collections.abc import Iterator
from typing import Final

from weighbridge.errors import UnavailableError
from weighbridge.structs import Frozen

LF: Final = 0x0A
CR: Final = 0x0D
"""Numbers: to look for bytes in bytes, `in` takes more than ten times as long."""
EVENT_BYTES_MAX: Final = 1024 * 1024
"""Longest event of an engine; a line that never ends costs no more memory than this (G10)."""


class SseEvent(Frozen, frozen=True):
    """One event: its `data` lines joined, and its name ('' is the usual one)."""

    data: bytes
    name: bytes = b""


def read_single_line(event: bytes) -> SseEvent | None:
    """An event that is one `data` line, as nearly all are, from its bytes without line ends; None for any other."""
    if (
        event.startswith(b"data: ")
        and LF not in event
        and CR not in event
        and len(event) <= EVENT_BYTES_MAX
    ):
        return SseEvent(event[len(b"data: ") :])
    return None


class SseParser:
    """Feed it whatever the network gives; events come out whole, however the bytes were cut.

    LF, CRLF and CR end a line; comments and unknown fields are dropped. llama.cpp reports an error as a
    field `error:` instead of `data:`; that becomes an event of the name `error`.
    """

    __slots__ = ("_after_cr", "_data", "_event_bytes_max", "_name", "_pieces", "_size_bytes")

    def __init__(self, event_bytes_max: int = EVENT_BYTES_MAX) -> None:
        self._event_bytes_max = event_bytes_max
        self._pieces: list[bytes] = []
        self._size_bytes = 0
        self._after_cr = False
        self._data: list[bytes] = []
        self._name = b""

    @property
    def between_events(self) -> bool:
        """Whether nothing is held, so that the next byte begins an event."""
        return not (self._pieces or self._data or self._name or self._after_cr)

    def feed(self, received: bytes) -> Iterator[SseEvent]:
        """Raises UnavailableError when one event exceeds the limit."""
        for line in self._lines(received):
            event = self._line(line)
            if event is not None:
                yield event

    def _lines(self, received: bytes) -> Iterator[bytes]:
        if self._after_cr and received[:1] == b"\n":
            received = received[1:]
            self._after_cr = False
        if not received:
            return
        self._after_cr = received.endswith(b"\r")
        if CR in received:
            received = received.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *ended, rest = received.split(b"\n")
        for line in ended:
            self._count(len(line))
            self._pieces.append(line)
            whole = b"".join(self._pieces)
            self._pieces.clear()
            yield whole
        if rest:
            self._count(len(rest))
            self._pieces.append(rest)

    def _count(self, size_bytes: int) -> None:
        self._size_bytes += size_bytes
        if self._size_bytes > self._event_bytes_max:
            raise UnavailableError(
                f"The engine sent an event of more than {self._event_bytes_max} bytes",
                code="engine_failed",
            )

    def _line(self, line: bytes) -> SseEvent | None:
        if not line:
            return self._dispatch()
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
        elif field == b"event":
            self._name = value
        elif field == b"error":
            self._data.append(value)
            self._name = b"error"
        return None

    def _dispatch(self) -> SseEvent | None:
        data, name = self._data, self._name
        self._data, self._name, self._size_bytes = [], b"", 0
        return SseEvent(b"\n".join(data), name) if data else None
