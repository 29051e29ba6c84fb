"""Where a message's body ends: the rules of RFC 9112 section 6 as tables, and one decoder per kind of body.

A decoder is fed bytes as they come and gives back the body's bytes; `rest` is what followed the end.
"""

import re
from enum import IntEnum
from typing import Final

from weighbridge.errors import LimitError
from weighbridge.gateway.wire.heads import (
    AnswerHead,
    MalformedError,
    RequestHead,
    check_trailer,
    read_length,
)
from weighbridge.gateway.wire.limits import CHUNK_LINE_BYTES_MAX, TRAILER_BYTES_MAX

CHUNK_DIGITS_MAX: Final = 8
_CHUNK_LINE: Final = re.compile(
    rb"([0-9A-Fa-f]{1,%d})(?:[\t ]*;[\t -~\x80-\xff]*)?" % CHUNK_DIGITS_MAX
)
_SIZE_LINES_MAX: Final = 4096
_SIZE_LINES: Final = [b"%x\r\n" % size for size in range(_SIZE_LINES_MAX)]
_SIZES: Final = {line[:-2]: size for size, line in enumerate(_SIZE_LINES)}
_BODYLESS: Final = frozenset({204, 304})


def chunk(data: bytes) -> bytes:
    """`data`, which is not empty, as one chunk."""
    size = len(data)
    line = _SIZE_LINES[size] if size < _SIZE_LINES_MAX else b"%x\r\n" % size
    return b"%b%b\r\n" % (line, data)


class LengthBody:
    """A body of `size_bytes`, as Content-Length says."""

    def __init__(self, size_bytes: int) -> None:
        self.left_bytes = size_bytes
        self.done = size_bytes == 0
        self.rest = b""

    def feed(self, received: bytes) -> bytes:
        size = len(received)
        if size < self.left_bytes:
            self.left_bytes -= size
            return received
        self.done = True
        if size == self.left_bytes:
            self.left_bytes = 0
            return received
        end, self.left_bytes = self.left_bytes, 0
        self.rest = received[end:]
        return received[:end]

    def ends_at_close(self) -> bool:
        return False


class CloseBody:
    """An answer's body that ends when its connection does."""

    done = False
    rest = b""

    def feed(self, received: bytes) -> bytes:
        return received

    def ends_at_close(self) -> bool:
        return True


class At(IntEnum):
    """What the decoder of a chunked body waits for."""

    SIZE = 0
    DATA = 1
    DATA_END = 2
    TRAILER = 3
    DONE = 4


TRANSITIONS: Final[dict[At, frozenset[At]]] = {
    At.SIZE: frozenset({At.DATA, At.TRAILER}),
    At.DATA: frozenset({At.DATA_END}),
    At.DATA_END: frozenset({At.SIZE}),
    At.TRAILER: frozenset({At.DONE}),
    At.DONE: frozenset(),
}
_SIZE: Final = At.SIZE
_DATA: Final = At.DATA
_DATA_END: Final = At.DATA_END
_TRAILER: Final = At.TRAILER
_DONE: Final = At.DONE


class ChunkedBody:
    """A body in chunks. Extensions and trailers are checked and dropped."""

    __slots__ = ("_at", "_held", "_left_bytes", "_trailer_bytes", "done", "rest")

    def __init__(self) -> None:
        self.done = False
        self.rest = b""
        self._at = _SIZE
        self._left_bytes = 0
        self._held = b""
        self._trailer_bytes = 0

    def feed(self, received: bytes) -> bytes:
        """Raises MalformedError as soon as the bytes cannot be a chunked body."""
        return self.feed_one(received) or self._chunks(
            self._held + received if self._held else received
        )

    def feed_one(self, received: bytes) -> bytes:
        """The data of exactly one chunk, as a stream's events come; empty for anything else, which `feed` is for."""
        if self._at is _SIZE and not self._held and len(received) < _SIZE_LINES_MAX:
            line = _ONE_CHUNK[len(received)]
            if line and received.startswith(line) and received.endswith(b"\r\n"):
                return received[len(line) : -2]
        return b""

    def _chunks(self, data: bytes) -> bytes:
        pieces: list[bytes] = []
        start, end = 0, len(data)
        while start < end:
            at = self._at
            if at is _SIZE:
                used = self._size_line(data, start)
            elif at is _DATA:
                used = min(self._left_bytes, end - start)
                pieces.append(data[start : start + used])
                self._left_bytes -= used
                if not self._left_bytes:
                    self._at = _DATA_END
            elif at is _DATA_END:
                used = self._data_end(data, start)
            elif at is _TRAILER:
                used = self._trailer_line(data, start)
            else:
                break
            if not used:
                break
            start += used
        self._held = data[start:] if start < end else b""
        if self._at is _DONE:
            self.done, self.rest, self._held = True, self._held, b""
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def ends_at_close(self) -> bool:
        return False

    def _size_line(self, data: bytes, start: int) -> int:
        line = _line(data, start, CHUNK_LINE_BYTES_MAX)
        if line is None:
            return 0
        size = _SIZES.get(line)
        if size is None:
            found = _CHUNK_LINE.fullmatch(line)
            if found is None:
                raise MalformedError("A chunk's size is not a number of up to 8 hexadecimal digits")
            size = int(found[1], 16)
        self._left_bytes = size
        self._at = _DATA if self._left_bytes else _TRAILER
        return len(line) + 2

    def _data_end(self, data: bytes, start: int) -> int:
        found = data[start : start + 2]
        if found != b"\r\n"[: len(found)]:
            raise MalformedError("A chunk is longer than it said")
        if len(found) < 2:
            return 0
        self._at = _SIZE
        return 2

    def _trailer_line(self, data: bytes, start: int) -> int:
        line = _line(data, start, TRAILER_BYTES_MAX - self._trailer_bytes)
        if line is None:
            return 0
        self._trailer_bytes += len(line) + 2
        if line:
            check_trailer(line)
        else:
            self._at = _DONE
        return len(line) + 2


def _one_chunks() -> list[bytes]:
    """For each number of bytes the first line of the one chunk that they can be; empty where there is none."""
    lines = [b""] * _SIZE_LINES_MAX
    for size, line in enumerate(_SIZE_LINES):
        if size and len(line) + size + 2 < _SIZE_LINES_MAX:
            lines[len(line) + size + 2] = line
    return lines


_ONE_CHUNK: Final = _one_chunks()

Body = LengthBody | ChunkedBody | CloseBody


def request_body(head: RequestHead) -> LengthBody | ChunkedBody:
    """The decoder for a request's body. Raises MalformedError for all that RFC 9112 6.3 lets be read in two ways."""
    coding, length = head.values.get("transfer-encoding"), head.length
    if coding is None:
        return LengthBody(0 if length is None else read_length(length))
    if length is not None:
        raise MalformedError("The request has both Content-Length and Transfer-Encoding")
    if head.minor == 0 or coding.lower() != "chunked":
        raise MalformedError("The only transfer coding taken is chunked, in HTTP/1.1")
    return ChunkedBody()


def too_large(size_bytes_max: int) -> LimitError:
    return LimitError(f"The body is over {size_bytes_max} bytes", code="body_too_large")


def answer_body(head: AnswerHead, method: str) -> Body:
    """The decoder for the body of an answer to `method`; raises MalformedError."""
    coding, length = head.values.get("transfer-encoding"), head.length
    if coding is not None and (length is not None or coding.lower() != "chunked"):
        raise MalformedError("The answer's framing can be read in two ways")
    if method == "HEAD" or head.status in _BODYLESS:
        return LengthBody(0)
    if coding is not None:
        return ChunkedBody()
    return CloseBody() if length is None else LengthBody(read_length(length))


def _line(data: bytes, start: int, size_bytes_max: int) -> bytes | None:
    """Up to CR LF, without it; None when more bytes are needed."""
    end = data.find(b"\n", start, start + size_bytes_max)
    if end == -1:
        if len(data) - start >= size_bytes_max:
            raise MalformedError("A line of the chunked body is too long")
        return None
    # In this order: compiled, a slice that ends before it begins raises (docs/decisions/0008).
    if end == start or data[end - 1 : end] != b"\r":
        raise MalformedError("A line of the chunked body does not end with CR LF")
    return data[start : end - 1]
