"""Events of a stream that differ in their text only: recognised by their bytes, so that most need no full parse.

An engine repeats the same event for every token but for one string. What stands around that string is learned
by reading an event in full that has a probe in its place; then it is compared byte by byte with each event. The
string itself is always decoded, checked and written anew. Whatever differs anywhere is read in full again.
"""

import re
from collections.abc import Callable
from typing import Final

import msgspec

from weighbridge.clock import new_short_id
from weighbridge.gateway.answers.shapes import UNREADABLE
from weighbridge.gateway.answers.sse import CR, LF

PROBE: Final = f"\u2603 {new_short_id()}"
"""No text of an engine is this one."""
_NAMES: Final = (b'"content"', b'"text"', b'"reasoning_content"', b'"reasoning"')
_TEXT: Final = re.compile(rb'"[a-z_]+" ?: ?("(?:[^"\\\x00-\x1f]|\\.)+")')
_STRING: Final = msgspec.json.Decoder(str)
_ENCODER: Final = msgspec.json.Encoder()
LEARNED_FREELY: Final = 4
"""Learning costs as much as reading an event in full, so a pattern must have paid before the next is learned."""
USES_TO_PAY: Final = 4

Rewrite = Callable[[bytes], bytes | None]
"""The frame for the JSON of one event, None unless it carries a text and nothing else. The caller may never see it."""


class RepeatedEvents:
    """The pattern of one stream's events; `framed` were made by it, their texts have `chars` characters."""

    __slots__ = (
        "_before", "_ending", "_fixed_bytes", "_frame_after", "_frame_before", "_framed_before", "_learned", "chars",
        "framed",
    )  # fmt: skip

    def __init__(self) -> None:
        self.framed = 0
        self.chars = 0
        self._before = b""
        self._ending = b""
        self._frame_before = b""
        self._frame_after = b""
        self._fixed_bytes = 0
        self._learned = 0
        self._framed_before = 0

    def frame(self, received: bytes) -> bytes:
        """The caller's frame for exactly one event with its empty line; empty to have it read in full.

        This runs for nearly every token of a stream.
        """
        before, ending = self._before, self._ending
        if (
            not self._fixed_bytes
            or not received.startswith(before)
            or not received.endswith(ending)
            or len(received) <= self._fixed_bytes
        ):
            return b""
        literal = received[len(before) : -len(ending)]
        if LF in literal:
            return b""  # several events; no string has such a byte
        try:
            text = _STRING.decode(literal)
        except UNREADABLE:
            return b""
        if not text:
            return b""
        self.framed += 1
        self.chars += len(text)
        return b"%b%b%b" % (self._frame_before, _ENCODER.encode(text), self._frame_after)

    def forget(self) -> None:
        self._fixed_bytes = 0

    def learn(self, event: bytes, rewrite: Rewrite) -> bool:
        """Whether there is a pattern now, of this event; it comes without its line ends."""
        if self._learned >= LEARNED_FREELY and self.framed - self._framed_before < USES_TO_PAY:
            return False
        found = _text_in(event)
        if found is None or not event.startswith(b"data: ") or CR in event or LF in event:
            return False
        self._learned += 1
        self._framed_before, self._fixed_bytes = self.framed, 0
        before, after = event[: found.start(1)], event[found.end(1) :]
        literal = _ENCODER.encode(PROBE)
        frame = rewrite((before + literal + after)[len(b"data: ") :])
        if frame is None or frame.count(literal) != 1:
            return False
        self._before, self._ending = before, after + b"\n\n"
        self._frame_before, _, self._frame_after = frame.partition(literal)
        self._fixed_bytes = len(before) + len(self._ending)
        return True


def _text_in(event: bytes) -> re.Match[bytes] | None:
    """A member that engines have texts in, with the text's literal as its group."""
    for name in _NAMES:
        at = event.find(name)
        if at != -1 and (found := _TEXT.match(event, at)):
            return found
    return None
