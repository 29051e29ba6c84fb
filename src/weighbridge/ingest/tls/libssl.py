"""The functions of libssl and libcrypto that we call, with their signatures (OpenSSL 3.0, its manual pages)."""

import _ssl
import ctypes
import ssl
from ctypes import c_char_p, c_int, c_long, c_size_t, c_uint, c_ulong, c_void_p
from functools import cache

VERIFY_PEER = 1
TLS_1_2 = 0x0303
SET_READ_AHEAD = 41
SET_SERVER_NAME = 55
SET_MIN_VERSION = 123
SET_BIO_SSL = 109
BIO_SHOULD_RETRY = 8
WANT_READ, WANT_WRITE, ZERO_RETURN = 2, 3, 6
NO_PARTIAL_WILDCARDS = 4
ERROR_TEXT_BYTES = 256

_SIGNATURES = {
    "TLS_client_method": (c_void_p,),
    "SSL_CTX_new": (c_void_p, c_void_p),
    "SSL_CTX_free": (None, c_void_p),
    "SSL_CTX_ctrl": (c_long, c_void_p, c_int, c_long, c_void_p),
    "SSL_CTX_set_default_read_buffer_len": (None, c_void_p, c_size_t),
    "SSL_CTX_set_verify": (None, c_void_p, c_int, c_void_p),
    "SSL_CTX_load_verify_file": (c_int, c_void_p, c_char_p),
    "SSL_CTX_set_cipher_list": (c_int, c_void_p, c_char_p),
    "SSL_CTX_set_ciphersuites": (c_int, c_void_p, c_char_p),
    "SSL_new": (c_void_p, c_void_p),
    "SSL_free": (None, c_void_p),
    "SSL_set_fd": (c_int, c_void_p, c_int),
    "SSL_ctrl": (c_long, c_void_p, c_int, c_long, c_char_p),
    "SSL_get0_param": (c_void_p, c_void_p),
    "SSL_connect": (c_int, c_void_p),
    "SSL_get_verify_result": (c_long, c_void_p),
    "SSL_get_error": (c_int, c_void_p, c_int),
    "SSL_read": (c_int, c_void_p, c_void_p, c_int),
    "SSL_write": (c_int, c_void_p, c_char_p, c_int),
    "X509_VERIFY_PARAM_set_hostflags": (None, c_void_p, c_uint),
    "X509_VERIFY_PARAM_set1_host": (c_int, c_void_p, c_char_p, c_size_t),
    "X509_VERIFY_PARAM_set1_ip_asc": (c_int, c_void_p, c_char_p),
    "X509_verify_cert_error_string": (c_char_p, c_long),
    "BIO_f_buffer": (c_void_p,),
    "BIO_f_ssl": (c_void_p,),
    "BIO_new": (c_void_p, c_void_p),
    "BIO_push": (c_void_p, c_void_p, c_void_p),
    "BIO_ctrl": (c_long, c_void_p, c_int, c_long, c_void_p),
    "BIO_read": (c_int, c_void_p, c_void_p, c_int),
    "BIO_test_flags": (c_int, c_void_p, c_int),
    "BIO_free_all": (None, c_void_p),
    "ERR_clear_error": (None,),
    "ERR_get_error": (c_ulong,),
    "ERR_error_string_n": (None, c_ulong, c_char_p, c_size_t),
}
"""By name: the result's type, then the arguments'."""


@cache
def libssl() -> ctypes.CDLL | None:
    """The library that Python's own `ssl` is linked with; None where that cannot be called, or is older than 3.0."""
    path = getattr(_ssl, "__file__", None)  # none where it is built into the interpreter
    if path is None or ssl.OPENSSL_VERSION_INFO < (3,):
        return None
    try:
        library = ctypes.CDLL(path)  # a symbol is looked for in what it is linked with, too
        for name, (result, *arguments) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError):
        return None
    return library


def last_error(library: ctypes.CDLL) -> str:
    """What this thread's last call that failed says; forgets it and those before."""
    code = library.ERR_get_error()
    library.ERR_clear_error()
    text = ctypes.create_string_buffer(ERROR_TEXT_BYTES)
    library.ERR_error_string_n(code, text, len(text))
    return text.value.decode(errors="replace") if code else "connection closed"
