"""TLS by Python's `ssl` over a socket that is read in large pieces: by itself it asks the kernel twice per record."""

import socket
import ssl
from typing import Any

from weighbridge.ingest.tls.base import Tls, TlsSocket

RECEIVE_BYTES = 256 * 1024


class BufferedTls(Tls):
    """Trusts the certificates of `ca_file` alone."""

    def __init__(self, ca_file: str) -> None:
        self._context = ssl.create_default_context(cafile=ca_file)

    def connect(self, raw: socket.socket, host: str, timeout_s: float) -> "BufferedSocket":
        raw.settimeout(timeout_s)
        return BufferedSocket(raw, self._context, host)


class BufferedSocket(TlsSocket):
    """The handshake is made here; ssl.SSLError when it fails."""

    def __init__(self, raw: socket.socket, context: ssl.SSLContext, host: str) -> None:
        self._raw = raw
        self._received = ssl.MemoryBIO()
        self._to_send = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._to_send, server_hostname=host)
        self._buffer = memoryview(bytearray(RECEIVE_BYTES))
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                if not self._receive():
                    raise ConnectionResetError("closed during the TLS handshake") from None
            else:
                self._flush()
                return

    def settimeout(self, seconds: float) -> None:
        self._raw.settimeout(seconds)

    def sendall(self, content: bytes) -> None:
        try:
            self._tls.write(content)
        except ssl.SSLError as error:
            raise ConnectionResetError(f"TLS failed: {error.reason}") from error
        self._flush()

    def read_into(self, view: memoryview) -> int:
        """As much as has come, up to `view`; at least a byte, or 0 at the end. ConnectionError when TLS fails."""
        read: Any = self._tls.read  # into a buffer it returns a count, which its stub does not know
        count = 0
        while count < len(view):
            try:
                count += read(len(view) - count, view[count:])
            except ssl.SSLWantReadError:
                if count:
                    return count
                self._flush()  # an answer to the other side's change of keys
                if not self._receive():
                    raise ConnectionResetError("closed without TLS's own end") from None
            except ssl.SSLZeroReturnError:
                return count
            except ssl.SSLError as error:
                raise ConnectionResetError(f"TLS failed: {error.reason}") from error
        return count

    def end(self) -> None:
        self._raw.close()

    def _receive(self) -> int:
        count = self._raw.recv_into(self._buffer)
        self._received.write(self._buffer[:count])
        return count

    def _flush(self) -> None:
        if self._to_send.pending:
            self._raw.sendall(self._to_send.read())
