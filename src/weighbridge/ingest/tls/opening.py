"""Chooses how TLS is spoken on this machine."""

from weighbridge.ingest.tls.base import Tls
from weighbridge.ingest.tls.buffered import BufferedTls
from weighbridge.ingest.tls.libssl import libssl
from weighbridge.ingest.tls.native import NativeTls


def tls_of(ca_file: str) -> Tls:
    """Trusting the certificates of `ca_file` alone. ssl.SSLError, OSError for a file that cannot be used."""
    library = libssl()
    return BufferedTls(ca_file) if library is None else NativeTls(library, ca_file)
