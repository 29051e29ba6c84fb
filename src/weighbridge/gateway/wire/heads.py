"""The head of an HTTP/1.1 message, from bytes to values; strict, and of one reading only (RFC 9112).

What two programs in a row could read differently is refused, never mended: that is how requests are smuggled.
"""

import re
from collections.abc import Sequence
from typing import Final, Generic, TypeVar

from msgspec.structs import replace

from weighbridge.errors import InvalidError
from weighbridge.gateway.wire.limits import (
    FIELD_NAME_CHARS_MAX,
    FIELDS_MAX,
    TARGET_CHARS_MAX,
)
from weighbridge.structs import Frozen

Fields = list[tuple[str, str]]
"""Lower-case names with their values, in the order they came."""

_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TARGET: Final = re.compile(r"/[!-~]*")
_HOST: Final = re.compile(r"(?:[A-Za-z0-9._\-~%!$&'()*+,;=]+|\[[0-9A-Fa-f:.]+\])?(?::[0-9]*)?")
_STATUS_LINE: Final = re.compile(r"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: ([\t -~\x80-\xff]*))?")
_MINOR_OF: Final = {"HTTP/1.1": 1, "HTTP/1.0": 0}
_OTHER_VERSION: Final = re.compile(r"HTTP/[0-9](?:\.[0-9])?")
_IN_HEADS: Final = bytes([*b"\t\r\n", *range(0x20, 0x7F), *range(0x80, 0x100)])
"""Bytes that may stand in a head at all: no NUL, no other control character."""
LENGTH_DIGITS_MAX: Final = 15
_LENGTH: Final = re.compile(rf"[0-9]{{1,{LENGTH_DIGITS_MAX}}}")
_LENGTH_LINE: Final = re.compile(
    rb"\r\ncontent-length:[ \t]*([0-9]{1,%d})(?=\r\n|\Z)" % LENGTH_DIGITS_MAX, re.IGNORECASE
)
_PATTERNS_MAX: Final = 256
_PATTERN_BYTES_MAX: Final = 4096
_NAMES_KEPT_MAX: Final = 1024
_ONCE: Final = frozenset({"content-length", "transfer-encoding", "host", "expect", "content-type"})
"""Fields that must not come twice."""


class MalformedError(InvalidError):
    """Where this message ends and the next begins cannot be trusted, so the connection must end."""

    def __init__(self, message: str, *, code: str = "malformed_http") -> None:
        super().__init__(message, code=code)


class RequestHead(Frozen, frozen=True):
    """`values` has one per name; of a field that came more than once they are joined by commas (RFC 9110, 5.2).

    `length` is the text of Content-Length, which is in neither of the two. `size_bytes` is that number when nothing
    else is said of the body, −1 when the framing's rules have to be asked. `keep`: the caller keeps the connection.
    """

    method: str
    target: str
    path: str
    minor: int
    fields: Fields
    values: dict[str, str]
    length: str | None
    size_bytes: int
    keep: bool

    def every(self, name: str) -> Sequence[str]:
        return [value for other, value in self.fields if other == name]


class AnswerHead(Frozen, frozen=True):
    """As `RequestHead`."""

    status: int
    reason: str
    minor: int
    fields: Fields
    values: dict[str, str]
    length: str | None
    size_bytes: int
    keep: bool


Head = TypeVar("Head", RequestHead, AnswerHead)


class HeadPattern(Generic[Head]):
    """A head that was read, as the bytes around the number of its Content-Length.

    Who talks on a connection repeats itself: a head that differs from the last one in that number alone reads the
    same, so it is compared and not read. Never of a head that leaves the framing something to judge.
    """

    __slots__ = ("_after", "_before", "head")

    def __init__(self, before: bytes, after: bytes, head: Head) -> None:
        self._before = before
        self._after = after
        self.head: Head = head

    def read(self, data: bytes) -> int:
        """Where the body begins in `data` when it begins with such a head, which is `head` then; 0 if not."""
        before, after = self._before, self._after
        if not data.startswith(before):
            return 0
        start = len(before)
        end = data.find(b"\r", start, start + LENGTH_DIGITS_MAX + 1)
        if end <= start or not data.startswith(after, end):
            return 0
        digits = data[start:end]
        if not digits.isdigit():
            return 0
        size = int(digits)
        if size != self.head.size_bytes:
            self.head = replace(self.head, length=digits.decode(), size_bytes=size)
        return end + len(after)


class HeadPatterns(Generic[Head]):
    """Those of many connections, which mostly have the same ones."""

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, bytes], HeadPattern[Head]] = {}

    def of(self, raw: bytes, head: Head) -> HeadPattern[Head] | None:
        """`raw` is what `head` was read from, up to the empty line; None when such a head is better read each time."""
        if head.size_bytes < 0 or head.minor != 1 or len(raw) > _PATTERN_BYTES_MAX:
            return None
        found = _LENGTH_LINE.search(raw)
        if found is None:
            return None
        before, after = raw[: found.start(1)], raw[found.end(1) :] + b"\r\n\r\n"
        pattern = self._known.get((before, after))
        if pattern is None:
            if len(self._known) >= _PATTERNS_MAX:
                self._known.clear()
            pattern = self._known[before, after] = HeadPattern(before, after, head)
        pattern.head = head
        return pattern


class KnownHeads:
    """Heads of streams as they came before, byte for byte: they say no length, and no more than the date changes."""

    def __init__(self) -> None:
        self._known: dict[bytes, AnswerHead] = {}

    def read(self, raw: bytes) -> AnswerHead:
        """As `read_answer_head`."""
        head = self._known.get(raw)
        if head is None:
            head = read_answer_head(raw)
            if head.length is None and len(raw) <= _PATTERN_BYTES_MAX:
                if len(self._known) >= _PATTERNS_MAX:
                    self._known.clear()
                self._known[raw] = head
        return head


def read_request_head(head: bytes) -> RequestHead:
    """`head` is all up to the empty line, without it. Raises MalformedError with the code of the answer."""
    lines = _lines(head)
    method, _, rest = lines[0].partition(" ")
    target, _, version = rest.rpartition(" ")
    minor = _MINOR_OF.get(version)
    if minor is None:
        if _OTHER_VERSION.fullmatch(version):
            raise MalformedError("Only HTTP/1.1 and HTTP/1.0 are spoken here", code="http_version")
        raise MalformedError("The request line is not that of HTTP/1.1")
    if _TOKEN.fullmatch(method) is None:
        raise MalformedError("The request's method is not a token")
    if len(target) > TARGET_CHARS_MAX:
        raise MalformedError("The request's target is too long", code="target_too_long")
    if _TARGET.fullmatch(target) is None:
        # Absolute form names the host a second time, and only proxies need it.
        raise MalformedError("The request's target must be a path that begins with /")
    fields = _fields(lines)
    values = _values(fields)
    host = values.get("host")
    if (host is None and minor == 1) or (host is not None and _HOST.fullmatch(host) is None):
        raise MalformedError("The request needs one Host field that names a host")
    path = target.partition("?")[0]
    keep = stays_open(minor, values.get("connection"))
    length = _take_length(fields, values)
    size = -1 if "expect" in values else _plain_size(length, values)
    return RequestHead(method, target, path, minor, fields, values, length, size, keep)


def read_answer_head(head: bytes) -> AnswerHead:
    """As `read_request_head`, for what an upstream answers."""
    lines = _lines(head)
    found = _STATUS_LINE.fullmatch(lines[0])
    if found is None:
        raise MalformedError("The status line is not that of HTTP/1.1")
    fields = _fields(lines)
    values, minor = _values(fields), int(found[1])
    keep = stays_open(minor, values.get("connection"))
    length = _take_length(fields, values)
    size = -1 if length is None else _plain_size(length, values)
    return AnswerHead(int(found[2]), found[3] or "", minor, fields, values, length, size, keep)


def stays_open(minor: int, connection: str | None) -> bool:
    """Whether the connection may carry another message; HTTP/1.0 is not kept, whatever it asks for."""
    if minor == 0:
        return False
    if connection is None:
        return True
    return "close" not in {option.strip(" \t") for option in connection.lower().split(",")}


def read_length(text: str) -> int:
    """Raises MalformedError."""
    if _LENGTH.fullmatch(text) is None:
        raise MalformedError("Content-Length is not one decimal number")
    return int(text)


def check_trailer(line: bytes) -> None:
    """Raises MalformedError for a trailer line that is not a field; trailers are read and dropped."""
    _fields(["", *_lines(line)])


def _take_length(fields: Fields, values: dict[str, str]) -> str | None:
    length = values.pop("content-length", None)
    if length is not None:
        fields.remove(("content-length", length))
    return length


def _plain_size(length: str | None, values: dict[str, str]) -> int:
    if "transfer-encoding" in values:
        return -1
    if length is None:
        return 0
    return int(length) if _LENGTH.fullmatch(length) else -1


def _lines(head: bytes) -> list[str]:
    if head.translate(None, _IN_HEADS):
        raise MalformedError("A control character stands in the head")
    lines = head.decode("latin-1").split("\r\n")
    breaks = len(lines) - 1
    if head.count(b"\n") != breaks or head.count(b"\r") != breaks:
        raise MalformedError("A line of the head does not end with CR LF")
    return lines


def _fields(lines: Sequence[str]) -> Fields:
    if len(lines) > FIELDS_MAX + 1:
        raise MalformedError(f"The head has more than {FIELDS_MAX} fields")
    try:
        return [
            (_NAMES[name], value.strip(" \t"))
            for name, value in [line.split(":", 1) for line in lines[1:]]
        ]
    except (KeyError, ValueError):
        return _unusual_fields(lines)


def _unusual_fields(lines: Sequence[str]) -> Fields:
    """With a name that is new here, or with what is no field."""
    fields: Fields = []
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        lower = _NAMES.get(name) or _lower_name(name)
        if not colon:
            raise MalformedError("A line of the head is not a field")
        fields.append((lower, value.strip(" \t")))
    return fields


def _values(fields: Fields) -> dict[str, str]:
    values = dict(fields)
    if len(values) != len(fields):
        values = {}
        for name, value in fields:
            if name in values and name in _ONCE:
                raise MalformedError(f"The head has the field {name} twice")
            values[name] = f"{values[name]}, {value}" if name in values else value
    return values


_NAMES: Final[dict[str, str]] = {}
"""Names as they came → lower case, for those already found to be tokens."""


def _lower_name(name: str) -> str:
    # Space before the colon and the obsolete folding of lines both show here as names that are no tokens.
    if len(name) > FIELD_NAME_CHARS_MAX or _TOKEN.fullmatch(name) is None:
        raise MalformedError("A field's name is not a token")
    lower = name.lower()
    if len(_NAMES) < _NAMES_KEPT_MAX:
        _NAMES[name] = lower
    return lower
