"""Events of a stream that differ in their text only: recognised by their bytes, so that most need no full parse.

An engine repeats the same event for every token but for one string. What stands around that string is learned
from an event that was read in full, and tried on a probe; then it is compared byte by byte with each event. The
string itself is always decoded, checked and written anew. Whatever differs anywhere is read in full again.
"""

import re
from collections.abc import Callable

import msgspec

from weighbridge.gateway.answers.shapes import UNREADABLE

PROBE = "\u2603 weigh"
_TEXT = re.compile(
    rb'"(?:content|reasoning|reasoning_content|text)" ?: ?("(?:[^"\\\x00-\x1f]|\\.)*")'
)
_STRING = msgspec.json.Decoder(str)
_ENCODER = msgspec.json.Encoder()
LEARNED_FREELY = 4
"""Learning costs as much as reading two events in full, so a pattern must have paid before the next is learned."""
USES_TO_PAY = 4

Rewrite = Callable[[bytes], bytes | None]
"""The frame for the JSON of one event, None unless it carries a text and nothing else. Must not change any state."""


class RepeatedEvents:
    """The pattern of one stream's events."""

    __slots__ = (
        "_after", "_before", "_ending", "_fixed_bytes", "_frame_after", "_frame_before", "_learned", "_uses",
    )  # fmt: skip

    def __init__(self) -> None:
        self._before = b""
        self._after = b""
        self._frame_before = b""
        self._frame_after = b""
        self._ending = b"\n\n"
        self._fixed_bytes = 0
        self._learned = 0
        self._uses = 0

    def frame(self, event: bytes) -> tuple[bytes, str] | None:
        """The caller's frame for the bytes of an engine's event, and its text; None to have it read in full."""
        if (
            not self._fixed_bytes
            or len(event) <= self._fixed_bytes
            or not event.startswith(self._before)
            or not event.endswith(self._after)
        ):
            return None
        try:
            text = _STRING.decode(event[len(self._before) : len(event) - len(self._after)])
        except UNREADABLE:
            return None
        if not text:
            return None
        self._uses += 1
        return self._frame_before + _ENCODER.encode(text) + self._frame_after, text

    def frame_whole(self, received: bytes) -> tuple[bytes, str] | None:
        """As `frame`, for one event with its empty line. This runs for nearly every token of a stream."""
        before, ending = self._before, self._ending
        if (
            not self._fixed_bytes
            or not received.startswith(before)
            or not received.endswith(ending)
            or len(received) <= self._fixed_bytes + 2
        ):
            return None
        literal = received[len(before) : -len(ending)]
        if b"\n" in literal:
            return None  # several events; no string has such a byte
        try:
            text = _STRING.decode(literal)
        except UNREADABLE:
            return None
        if not text:
            return None
        self._uses += 1
        return self._frame_before + _ENCODER.encode(text) + self._frame_after, text

    def forget(self) -> None:
        self._fixed_bytes = 0

    def learn(self, event: bytes, rewrite: Rewrite) -> None:
        """`event` was read in full and is `data: ` with JSON, in one line, without its line ends."""
        if self._learned >= LEARNED_FREELY and self._uses < USES_TO_PAY:
            return
        self._learned += 1
        self._uses = self._fixed_bytes = 0
        found = _TEXT.search(event)
        if found is None or not event.startswith(b"data: ") or b"\r" in event or b"\n" in event:
            return
        before, after = event[: found.start(1)], event[found.end(1) :]
        literal = _ENCODER.encode(PROBE)
        frame = rewrite((before + literal + after)[len(b"data: ") :])
        if frame is None or frame.count(literal) != 1:
            return
        self._before, self._after, self._ending = before, after, after + b"\n\n"
        self._frame_before, _, self._frame_after = frame.partition(literal)
        self._fixed_bytes = len(before) + len(after)
