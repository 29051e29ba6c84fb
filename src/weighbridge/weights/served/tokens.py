"""Tokens for the weight server: each opens one version, for a time, and nobody without the pepper can make one."""

import base64
import hashlib
import hmac
import re

from weighbridge.errors import UnauthenticatedError

TOKEN_S = 6 * 3600.0
"""A replica may wait for a place on a node for long before it pulls."""
TOKEN_BYTES_PER_S = 20_000_000
"""A pull at this rate still ends in time: its size at this rate is added."""
TOKEN_CHARS_MAX = 160
_TOKEN = re.compile(r"wbw_([0-9a-f]{64})\.([1-9][0-9]{0,11})\.([A-Za-z0-9_-]{43})")


def token_expiry_s(now_unix_s: float, size_bytes: int) -> int:
    return int(now_unix_s + TOKEN_S + size_bytes / TOKEN_BYTES_PER_S)


def weights_token(pepper: bytes, digest: str, expires_unix_s: int) -> str:
    return f"wbw_{digest}.{expires_unix_s}.{_signature(pepper, digest, expires_unix_s)}"


def check_token(pepper: bytes, token: str, digest: str, now_unix_s: float) -> None:
    """Raises UnauthenticatedError `weights_token_wrong`, or `weights_token_expired` for one that was right once."""
    found = _TOKEN.fullmatch(token) if len(token) <= TOKEN_CHARS_MAX else None
    named, expires, given = found.groups() if found else ("0" * 64, "1", "")
    expected = _signature(pepper, named, int(expires))
    if not hmac.compare_digest(expected.encode(), given.encode()) or named != digest:
        raise UnauthenticatedError(
            "The token does not open this version: nodes get one with each replica they are to start.",
            code="weights_token_wrong",
        )
    if now_unix_s >= int(expires):
        raise UnauthenticatedError(
            "The token for these weights has expired; the next replica comes with another one.",
            code="weights_token_expired",
        )


def _signature(pepper: bytes, digest: str, expires_unix_s: int) -> str:
    # What other secrets are derived from the pepper for begins otherwise.
    raw = hmac.digest(pepper, f"weights:{digest}:{expires_unix_s}".encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
