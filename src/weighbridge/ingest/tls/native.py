"""TLS by OpenSSL called directly: one call fills a whole piece without Python's lock.

Python's `ssl` gives one record of 16 KiB per call and takes the interpreter's lock after each, for which the
threads of a sync wait longer than they decrypt.
"""

import ctypes
import io
import ipaddress
import socket
import ssl
import struct
import time
import weakref

from weighbridge.ingest.tls.base import Tls, TlsSocket
from weighbridge.ingest.tls.libssl import (
    BIO_SHOULD_RETRY,
    NO_PARTIAL_WILDCARDS,
    SET_BIO_SSL,
    SET_MIN_VERSION,
    SET_READ_AHEAD,
    SET_SERVER_NAME,
    TLS_1_2,
    VERIFY_PEER,
    WANT_READ,
    WANT_WRITE,
    ZERO_RETURN,
    last_error,
)

CIPHERS = (
    b"@SECLEVEL=2:ECDH+AESGCM:ECDH+CHACHA20:ECDH+AES:DHE+AES:!aNULL:!eNULL:!aDSS:!SHA1:!AESCCM"
)
"""Of TLS 1.2: those that Python's `ssl` allows."""
CIPHERSUITES = b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
"""Of TLS 1.3: the one S3 itself prefers first, which is also the fastest."""

READ_BYTES = 128 * 1024
"""Taken from the kernel at a time: some records; OpenSSL by itself asks for one."""


class NativeTls(Tls):
    """Trusts the certificates of `ca_file` alone, and nothing below TLS 1.2. ssl.SSLError for an unusable file."""

    def __init__(self, library: ctypes.CDLL, ca_file: str) -> None:
        self._library = library
        self._context = library.SSL_CTX_new(library.TLS_client_method())
        if not self._context:
            raise ssl.SSLError(last_error(library))
        weakref.finalize(self, library.SSL_CTX_free, self._context).atexit = False
        library.SSL_CTX_set_verify(self._context, VERIFY_PEER, None)
        library.SSL_CTX_ctrl(self._context, SET_READ_AHEAD, 1, None)
        library.SSL_CTX_set_default_read_buffer_len(self._context, READ_BYTES)
        if (
            library.SSL_CTX_ctrl(self._context, SET_MIN_VERSION, TLS_1_2, None) != 1
            or library.SSL_CTX_load_verify_file(self._context, ca_file.encode()) != 1
            or library.SSL_CTX_set_cipher_list(self._context, CIPHERS) != 1
            or library.SSL_CTX_set_ciphersuites(self._context, CIPHERSUITES) != 1
        ):
            raise ssl.SSLError(f"{ca_file}: {last_error(library)}")

    def connect(self, raw: socket.socket, host: str, timeout_s: float) -> "NativeSocket":
        handle = self._library.SSL_new(self._context)
        if not handle:
            raise ssl.SSLError(last_error(self._library))
        made = NativeSocket(self._library, handle, raw)
        made.settimeout(timeout_s)
        made.shake_hands(host)
        return made


class NativeSocket(TlsSocket):
    """One thread at a time."""

    def __init__(self, library: ctypes.CDLL, handle: int, raw: socket.socket) -> None:
        self._library = library
        self._raw = raw
        self._handle = handle
        # A buffering BIO above one of the connection reads on until it has all that was asked of it.
        self._whole = library.BIO_new(library.BIO_f_buffer())
        below = library.BIO_new(library.BIO_f_ssl())
        library.BIO_ctrl(below, SET_BIO_SSL, 0, handle)
        library.BIO_push(self._whole, below)
        self._free = weakref.finalize(self, _free, library, handle, self._whole)
        self._free.atexit = False  # a thread may be reading still when the process ends
        self._timeout_s = 0.0

    def shake_hands(self, host: str) -> None:
        library, handle = self._library, self._handle
        if not host:
            raise ssl.SSLError("no host to be sure of")
        name = host.encode("idna")
        expected = library.SSL_get0_param(handle)
        library.X509_VERIFY_PARAM_set_hostflags(expected, NO_PARTIAL_WILDCARDS)
        if _is_address(host):
            done = library.X509_VERIFY_PARAM_set1_ip_asc(expected, name)
        else:
            done = library.X509_VERIFY_PARAM_set1_host(expected, name, len(name))
            library.SSL_ctrl(handle, SET_SERVER_NAME, 0, name)
        if done != 1 or library.SSL_set_fd(handle, self._raw.fileno()) != 1:
            raise ssl.SSLError(last_error(library))
        library.ERR_clear_error()
        result = library.SSL_connect(handle)
        verified = library.SSL_get_verify_result(handle)
        if verified != 0:
            library.ERR_clear_error()  # Python's ssl reads the same queue
            reason = library.X509_verify_cert_error_string(verified).decode()
            raise ssl.SSLCertVerificationError(f"certificate verify failed: {reason}")
        if result != 1:
            if library.SSL_get_error(handle, result) in (WANT_READ, WANT_WRITE):
                raise TimeoutError("the TLS handshake timed out")
            raise ssl.SSLError(last_error(library))

    def settimeout(self, seconds: float) -> None:
        """Of each wait for the other side."""
        self._timeout_s = seconds
        self._raw.settimeout(None)
        whole_s = int(seconds)
        wait = struct.pack("ll", whole_s, int((seconds - whole_s) * 1e6))
        self._raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, wait)
        self._raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, wait)

    def sendall(self, content: bytes) -> None:
        self._require_open()
        self._library.ERR_clear_error()
        count = self._library.SSL_write(self._handle, content, len(content))
        if count != len(content):
            self._fail(self._library.SSL_get_error(self._handle, count) == WANT_WRITE)

    def read_into(self, view: memoryview) -> int:
        self._require_open()
        library = self._library
        place = ctypes.byref(ctypes.c_char.from_buffer(view))
        until = time.monotonic() + self._timeout_s
        while True:
            library.ERR_clear_error()
            if len(view) > io.DEFAULT_BUFFER_SIZE:
                count = library.BIO_read(self._whole, place, len(view))
                waits = count <= 0 and library.BIO_test_flags(self._whole, BIO_SHOULD_RETRY) != 0
            else:
                count = library.SSL_read(self._handle, place, len(view))
                waits = count <= 0 and library.SSL_get_error(self._handle, count) == WANT_READ
            if count > 0:
                return int(count)
            if waits and time.monotonic() < until:
                continue  # a signal came in between
            if not waits and library.SSL_get_error(self._handle, count) == ZERO_RETURN:
                return 0
            self._fail(waits)

    def end(self) -> None:
        self._free()
        self._raw.close()

    def _require_open(self) -> None:
        if not self._free.alive:
            raise ConnectionResetError("this connection is closed")

    def _fail(self, waits: bool) -> None:
        if waits:
            raise TimeoutError("timed out")
        raise ConnectionResetError(f"TLS failed: {last_error(self._library)}")


def _free(library: ctypes.CDLL, handle: int, whole: int) -> None:
    library.BIO_free_all(whole)
    library.SSL_free(handle)
    library.ERR_clear_error()  # the first may have said goodbye in vain; Python's ssl reads the same queue


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
