"""What http.client needs of a TLS connection, and the factory that makes one of a connected socket."""

import io
import socket
from typing import Protocol


class TlsSocket(Protocol):
    """A connection whose handshake is made."""

    def settimeout(self, seconds: float) -> None: ...

    def sendall(self, content: bytes) -> None: ...

    def read_into(self, view: memoryview) -> int:
        """At least a byte, or 0 at the end. TimeoutError, ConnectionError.

        A view of more than io.DEFAULT_BUFFER_SIZE may be waited for until it is full: only a body's reader, who
        knows that so much is still to come, asks for more than a BufferedReader keeps.
        """
        ...

    def makefile(self, mode: str) -> io.BufferedReader:
        assert mode == "rb"
        return io.BufferedReader(_Stream(self))

    def close(self) -> None: ...


class Tls(Protocol):
    """Shared by the threads of a client."""

    def connect(self, raw: socket.socket, host: str, timeout_s: float) -> TlsSocket:
        """Make the handshake, and be sure of the host; ssl.SSLError when it fails. Owns `raw` from then on."""
        ...


class _Stream(io.RawIOBase):
    def __init__(self, source: TlsSocket) -> None:
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, view: bytearray | memoryview) -> int:  # type: ignore[override]  # all that BufferedReader passes
        return self._source.read_into(memoryview(view))
