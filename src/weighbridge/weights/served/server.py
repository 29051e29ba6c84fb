"""The weight server: manifests and ranges of blobs for whoever has a token for the version; a thread a connection.

A thread sends with sendfile(2), so neither Python nor another connection waits for the disk.
"""

import contextlib
import errno
import os
import socket
import struct
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from threading import BoundedSemaphore, Lock, Thread

import msgspec
import structlog

from weighbridge.errors import InvalidError, NotFoundError, UnauthenticatedError, WeighbridgeError
from weighbridge.weights.filesystem import FilesystemStore
from weighbridge.weights.manifest import Manifest
from weighbridge.weights.served.requests import (
    HEAD_BYTES_MAX,
    READY_PATH,
    RangeError,
    Request,
    parse_head,
    parse_range,
    parse_target,
)
from weighbridge.weights.served.tokens import check_token

log = structlog.get_logger()

CONNECTIONS_MAX = 256
HEAD_S = 10.0
"""For a whole head from its first byte, and for the first head of a connection."""
IDLE_S = 60.0
STALL_S = 30.0
"""A peer that takes nothing for so long is cut."""
SEND_BYTES = 4 * 1024 * 1024
MANIFESTS_MAX = 64
BACKLOG = 128
ACCEPT_PAUSE_S = 0.1
"""Where descriptors are out: those that end give some back."""
REFUSAL_S = 0.2
LINGER_S = 1.0
LINGER_READS_MAX = 16
STATUS = {RangeError: 416, InvalidError: 400, UnauthenticatedError: 401, NotFoundError: 404}
"""By the first class that fits."""
REASONS = {
    200: "OK",
    206: "Partial Content",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    405: "Method Not Allowed",
    416: "Range Not Satisfiable",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class WeightServer:
    """`serve` blocks until `close`. At most `connections_max` are answered at once; others are told to come again."""

    def __init__(
        self,
        store: FilesystemStore,
        pepper: bytes,
        listener: socket.socket,
        *,
        wall_s: Callable[[], float] = time.time,
        connections_max: int = CONNECTIONS_MAX,
        head_s: float = HEAD_S,
        stall_s: float = STALL_S,
    ) -> None:
        self._store = store
        self._pepper = pepper
        self._listener = listener
        self._wall_s = wall_s
        self._head_s = head_s
        self._stall_s = stall_s
        self._room = BoundedSemaphore(connections_max)
        self._open: set[socket.socket] = set()
        self._manifests: OrderedDict[str, tuple[Manifest, Mapping[str, int]]] = OrderedDict()
        self._lock = Lock()
        self._closed = False

    def serve(self) -> None:
        self._listener.listen(BACKLOG)
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError as error:
                if self._closed:
                    return
                log.warning("weights.accept_failed", reason=error.strerror)
                time.sleep(ACCEPT_PAUSE_S)
                continue
            if not self._room.acquire(blocking=False):
                _refuse_busy(peer)
                continue
            with self._lock:
                self._open.add(peer)
            try:
                Thread(target=self._converse, args=(peer,), name="weights", daemon=True).start()
            except RuntimeError:  # the system gives no thread now
                self._forget(peer)
                _refuse_busy(peer)

    def close(self) -> None:
        """No connection is answered any more; nodes go on elsewhere, or here with the next server."""
        self._closed = True
        for one in (self._listener, *tuple(self._open)):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _converse(self, peer: socket.socket) -> None:
        try:
            with peer:
                _prepare(peer, self._stall_s)
                left, wait_s = b"", self._head_s
                while not self._closed:
                    head, left = _read_head(peer, left, wait_s, self._head_s)
                    if head is None or not self._answer(peer, head):
                        _hang_up(peer)
                        return
                    wait_s = IDLE_S
        except OSError:
            pass  # the peer has gone, or takes nothing
        except Exception:
            log.exception("weights.connection_failed")
        finally:
            self._forget(peer)

    def _forget(self, peer: socket.socket) -> None:
        with self._lock:
            self._open.discard(peer)
        self._room.release()

    def _answer(self, peer: socket.socket, head: bytes) -> bool:
        """Whether the connection goes on: only for who had a right token, and asked for what there is."""
        with_body = not head.startswith(b"HEAD ")
        try:
            request = parse_head(head)
            if request.method not in ("GET", "HEAD"):
                refusal = InvalidError("Only GET and HEAD are answered.", code="method_not_allowed")
                _send_refusal(peer, refusal, 405, with_body=with_body)
                return False
            return self._give(peer, request) and request.keeps_alive
        except WeighbridgeError as error:
            status = next((s for kind, s in STATUS.items() if isinstance(error, kind)), 500)
            _send_refusal(peer, error, status, with_body=with_body)
        return False

    def _give(self, peer: socket.socket, request: Request) -> bool:
        """Whether a token was needed for it."""
        if request.path == READY_PATH:
            _send(peer, request, "text/plain", b"ok")
            return False
        target = parse_target(request.path)
        if target is None:
            raise NotFoundError("There is nothing here.")
        check_token(self._pepper, request.token, target.version, self._wall_s())
        manifest, sizes = self._version(target.version)
        if target.blob is None:
            _send(peer, request, "application/json", manifest.encode())
        else:
            self._give_blob(peer, request, target.blob, sizes)
        return True

    def _give_blob(
        self, peer: socket.socket, request: Request, blob: str, sizes: Mapping[str, int]
    ) -> None:
        """Only a blob of the version that the token names."""
        size = sizes.get(blob)
        missing = NotFoundError("The version has no such blob.", code="weights_missing")
        if size is None:
            raise missing
        try:
            descriptor = os.open(self._store.blob_path(blob), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise missing from error
        try:
            asked = parse_range(request.headers.get("range"), size)
            start, end = asked or (0, size)
            headers = {"Content-Length": str(end - start), "Accept-Ranges": "bytes"}
            if asked:
                headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
            _send_head(peer, 206 if asked else 200, headers)
            if request.method == "GET":
                _send_file(peer, descriptor, start, end)
        finally:
            os.close(descriptor)

    def _version(self, digest: str) -> tuple[Manifest, Mapping[str, int]]:
        """NotFoundError for one that is not published now, or was withdrawn (W1)."""
        self._store.version_dir(digest)
        with self._lock:
            known = self._manifests.get(digest)
        if known is not None:
            return known
        manifest = self._store.manifest(digest)
        found = (manifest, {entry.digest: entry.size_bytes for entry in manifest.files})
        with self._lock:
            self._manifests[digest] = found
            while len(self._manifests) > MANIFESTS_MAX:
                self._manifests.popitem(last=False)
        return found


def _prepare(peer: socket.socket, stall_s: float) -> None:
    # Kernel timeouts, not Python's: a socket of Python's with one is never blocking, and sendfile wants that.
    stall = struct.pack("ll", int(stall_s), int(stall_s % 1 * 1e6))
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, stall)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _read_head(
    peer: socket.socket, left: bytes, wait_s: float, head_s: float
) -> tuple[bytes | None, bytes]:
    """The next head, and what came after it; None when none comes in time, or it is too long."""
    content = bytearray(left)
    deadline_s = time.monotonic() + (head_s if left else wait_s)
    while (end := content.find(b"\r\n\r\n")) < 0:
        wait = deadline_s - time.monotonic()
        if wait <= 0 or len(content) > HEAD_BYTES_MAX:
            return None, b""
        _wait_at_most(peer, wait)
        piece = peer.recv(HEAD_BYTES_MAX)
        if not piece:
            return None, b""
        if not content:
            deadline_s = time.monotonic() + head_s
        content += piece
    if end > HEAD_BYTES_MAX:
        return None, b""
    return bytes(content[:end]), bytes(content[end + 4 :])


def _hang_up(peer: socket.socket) -> None:
    """With what was sent still to be read: a close with bytes unread in here would take it back."""
    peer.shutdown(socket.SHUT_WR)
    _wait_at_most(peer, LINGER_S)
    for _ in range(LINGER_READS_MAX):
        if not peer.recv(HEAD_BYTES_MAX):
            return


def _wait_at_most(peer: socket.socket, seconds: float) -> None:
    wait = max(seconds, 0.001)
    value = struct.pack("ll", int(wait), int(wait % 1 * 1e6))
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)


def _send_file(peer: socket.socket, descriptor: int, start: int, end: int) -> None:
    os.posix_fadvise(descriptor, start, end - start, os.POSIX_FADV_SEQUENTIAL)
    while start < end:
        sent = os.sendfile(peer.fileno(), descriptor, start, min(SEND_BYTES, end - start))
        if sent == 0:
            raise OSError(errno.EIO, "the blob is shorter than its manifest says")
        start += sent


def _send(peer: socket.socket, request: Request, kind: str, body: bytes) -> None:
    _send_head(peer, 200, {"Content-Type": kind, "Content-Length": str(len(body))})
    if request.method == "GET":
        peer.sendall(body)


def _send_head(peer: socket.socket, status: int, headers: Mapping[str, str]) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    peer.sendall(f"HTTP/1.1 {status} {REASONS[status]}\r\n{lines}\r\n".encode())


def _send_refusal(
    peer: socket.socket, error: WeighbridgeError, status: int, *, with_body: bool = True
) -> None:
    document = {
        "message": error.message,
        "type": "invalid_request_error" if status < 500 else "server_error",
        "param": None,
        "code": error.code,
    }
    body = msgspec.json.encode(document)
    headers = {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Connection": "close",
    }
    if isinstance(error, RangeError):
        headers["Content-Range"] = f"bytes */{error.size}"
    if status == STATUS[UnauthenticatedError]:
        headers["WWW-Authenticate"] = "Bearer"
    _send_head(peer, status, headers)
    if with_body:
        peer.sendall(body)


def _refuse_busy(peer: socket.socket) -> None:
    refusal = WeighbridgeError("Every connection is taken; try again.", code="weights_busy")
    with contextlib.suppress(OSError), peer:
        peer.settimeout(REFUSAL_S)
        _send_refusal(peer, refusal, 503)
        peer.shutdown(socket.SHUT_WR)
        peer.setblocking(False)
        # As `_hang_up`, but nobody waits for what is still to come.
        for _ in range(LINGER_READS_MAX):
            if not peer.recv(HEAD_BYTES_MAX):
                return
