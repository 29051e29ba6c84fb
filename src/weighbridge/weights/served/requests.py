"""What a node may ask the weight server, read strictly: one request line, few headers, one range. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from weighbridge.errors import InvalidError

HEAD_BYTES_MAX = 8 * 1024
HEADERS_MAX = 32
_LINE = re.compile(r"([A-Z]{1,16}) (/[!-~]{0,1024}) HTTP/1\.1")
_HEADER = re.compile(r"([A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}):[ \t]*([ -~\t]*)")
_PATH = re.compile(r"/v1/versions/([0-9a-f]{64})/(?:(manifest)|blobs/([0-9a-f]{64}))")
_RANGE = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))")
READY_PATH = "/readyz"


@dataclass(frozen=True, slots=True)
class Request:
    """Header names are in lower case; each may come once."""

    method: str
    path: str
    headers: Mapping[str, str]

    @property
    def token(self) -> str:
        """Empty where there is none."""
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        return token if scheme.lower() == "bearer" else ""

    @property
    def keeps_alive(self) -> bool:
        return self.headers.get("connection", "").lower() != "close"


@dataclass(frozen=True, slots=True)
class Target:
    """`blob` is None for the manifest."""

    version: str
    blob: str | None


class RangeError(InvalidError):
    """Cannot be satisfied for an object of this size, or is none that is served here."""

    code = "range_not_satisfiable"

    def __init__(self, size: int) -> None:
        super().__init__(f"One range of bytes within {size} is served at a time.")
        self.size = size


def parse_head(head: bytes) -> Request:
    """From the lines before the body, without the empty one. Raises InvalidError."""
    try:
        lines = head.decode("ascii").split("\r\n")
    except UnicodeDecodeError as error:
        raise InvalidError("A request's head is ASCII.") from error
    if (line := _LINE.fullmatch(lines[0])) is None:
        raise InvalidError("Not a request line of HTTP/1.1.")
    if len(lines) - 1 > HEADERS_MAX:
        raise InvalidError(f"At most {HEADERS_MAX} headers are read.")
    headers: dict[str, str] = {}
    for text in lines[1:]:
        if (header := _HEADER.fullmatch(text)) is None or (name := header[1].lower()) in headers:
            raise InvalidError("A header is malformed, or comes twice.")
        headers[name] = header[2].strip()
    if "transfer-encoding" in headers or headers.get("content-length", "0") != "0":
        raise InvalidError("Requests have no body here.")
    return Request(line[1], line[2], headers)


def parse_target(path: str) -> Target | None:
    """None for a path that there is not."""
    found = _PATH.fullmatch(path)
    return None if found is None else Target(found[1], found[3])


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """The bytes [start, end) that are asked for, None for all of them. Raises RangeError."""
    if header is None:
        return None
    found = _RANGE.fullmatch(header)
    if found is None:
        raise RangeError(size)
    first, last, suffix = found.groups()
    if suffix is not None:
        start, end = max(0, size - int(suffix)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
    if start >= end:
        raise RangeError(size)
    return start, end
