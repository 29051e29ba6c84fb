"""The bytes of an answer's head."""

from collections.abc import Iterable
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

SERVER: Final = "weighbridge"
"""What answers call their server."""
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK: Final = b"0\r\n\r\n"
STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\nserver: {SERVER}\r\ndate: ".encode()
    for status in HTTPStatus
}


def http_date(unix_s: float) -> bytes:
    """In the form of RFC 9110; costs more than an answer's head, so keep it for as long as it is true."""
    return formatdate(unix_s, usegmt=True).encode()


def reply_head(status: int, date: bytes, fields: bytes) -> bytes:
    """Up to and with the empty line; each of `fields` ends with CR LF."""
    return b"%b%b\r\n%b\r\n" % (STATUS_LINES[status], date, fields)


def foreign_head(status: int, reason: str, fields: Iterable[tuple[str, str]]) -> bytes:
    """The head of an answer that is passed on."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
    return f"HTTP/1.1 {status} {reason}\r\n{lines}\r\n".encode("latin-1")
