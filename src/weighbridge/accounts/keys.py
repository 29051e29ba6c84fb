"""The text of an API key: `wb_<kind>_<public id>_<secret><checksum>` (T3).

The kind and the checksum let scanners find leaked keys; the checksum lets us refuse garbage without a query.
"""

import re
import zlib
from dataclasses import dataclass

from weighbridge.accounts.model import KeyKind

KIND_WORDS = {
    KeyKind.MANAGEMENT: "mgmt",
    KeyKind.INFERENCE: "inf",
    KeyKind.BOTH: "both",
    KeyKind.ADMIN: "admin",
}
SECRET_CHARS_MIN = 43
"""256 bits in base64url."""
CHECKSUM_CHARS = 6
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_TEXT = re.compile(
    r"wb_(?P<kind>mgmt|inf|both|admin)_(?P<id>[a-z0-9]{8,32})_(?P<secret>[A-Za-z0-9_-]{43,128})"
    rf"(?P<checksum>[0-9A-Za-z]{{{CHECKSUM_CHARS}}})",
    re.ASCII,
)
_KINDS = {word: kind for kind, word in KIND_WORDS.items()}


@dataclass(frozen=True, slots=True)
class ParsedKey:
    """What a well-formed key says of itself; only the stored digest proves any of it."""

    kind: KeyKind
    key_id: str


def key_prefix(kind: KeyKind, key_id: str) -> str:
    """The part of a key that may be shown, to tell keys apart."""
    return f"wb_{KIND_WORDS[kind]}_{key_id}"


def key_text(kind: KeyKind, key_id: str, secret: str) -> str:
    """The key as its holder gets it, once. `secret` is base64url of at least 256 random bits."""
    if len(secret) < SECRET_CHARS_MIN:
        raise ValueError(f"a key's secret needs {SECRET_CHARS_MIN} characters, got {len(secret)}")
    body = f"{key_prefix(kind, key_id)}_{secret}"
    return body + _checksum(body)


def parse_key(text: str) -> ParsedKey | None:
    """None for anything that cannot be a key of ours."""
    match = _TEXT.fullmatch(text)
    if match is None or _checksum(text[:-CHECKSUM_CHARS]) != match["checksum"]:
        return None
    return ParsedKey(_KINDS[match["kind"]], match["id"])


def _checksum(body: str) -> str:
    value = zlib.crc32(body.encode())
    digits = ""
    for _ in range(CHECKSUM_CHARS):
        value, digit = divmod(value, len(_BASE62))
        digits = _BASE62[digit] + digits
    return digits
