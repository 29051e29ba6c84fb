"""Who calls: the inference key of a request, from its Authorization header and the key table."""

from collections.abc import Sequence
from typing import Final

from weighbridge.errors import ForbiddenError, UnauthenticatedError
from weighbridge.gateway.table import Tables
from weighbridge.routing.model import KeyEntry
from weighbridge.routing.tokens import key_digest

HEADER_CHARS_MAX: Final = 512
_SCHEME: Final = "bearer "


def authenticate(
    authorization: Sequence[str], tables: Tables, pepper: bytes, now_unix_s: float
) -> KeyEntry:
    """The key's entry, given every Authorization header of the request.

    Raises ForbiddenError when there is no header, as the hosted API does, and UnauthenticatedError for all
    else: unknown, revoked, expired, of the other surface, malformed, sent twice. These look alike.
    """
    if not authorization:
        raise ForbiddenError("Not authenticated", code="not_authenticated")
    if len(authorization) != 1 or len(authorization[0]) > HEADER_CHARS_MAX:
        raise _wrong_key()
    header = authorization[0]
    if header[: len(_SCHEME)].lower() != _SCHEME or not header.isascii():
        raise _wrong_key()
    entry = tables.keys.get(key_digest(pepper, header[len(_SCHEME) :].strip(" ")))
    if entry is None:
        raise _wrong_key()
    if entry.expires_unix_s is not None and entry.expires_unix_s <= now_unix_s:
        raise _wrong_key()
    return entry


def _wrong_key() -> UnauthenticatedError:
    return UnauthenticatedError("Wrong API Key", code="wrong_api_key", param="api_key")
