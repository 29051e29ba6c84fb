"""What http.client needs of a TLS connection, and the factory that makes one of a connected socket."""

import io
import socket
from typing import Protocol


class TlsSocket(Protocol):
    """A connection whose handshake is made. Closed, it is still read by the file that was made of it."""

    _files: int = 0
    _closed: bool = False

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
        self._files += 1
        return io.BufferedReader(_Stream(self))

    def close(self) -> None:
        """As a socket does it: http.client closes the connection of a last answer before its body is read."""
        self._closed = True
        if self._files == 0:
            self.end()

    def file_closed(self) -> None:
        self._files -= 1
        if self._closed and self._files == 0:
            self.end()

    def end(self) -> None:
        """Give everything back, whoever still reads. Repeatable."""
        ...


class Tls(Protocol):
    """Shared by the threads of a client."""

    def connect(self, raw: socket.socket, host: str, timeout_s: float) -> TlsSocket:
        """Make the handshake, and be sure of the host; ssl.SSLError when it fails. Owns `raw` from then on."""
        ...


class _Stream(io.RawIOBase):
    def __init__(self, source: TlsSocket) -> None:
        self._source = source

    def close(self) -> None:
        if not self.closed:
            self._source.file_closed()
        super().close()

    def readable(self) -> bool:
        return True

    def readinto(self, view: bytearray | memoryview) -> int:  # type: ignore[override]  # all that BufferedReader passes
        return self._source.read_into(memoryview(view))
