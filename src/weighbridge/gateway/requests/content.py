"""From bytes to plain values: content encodings, strict JSON and msgpack, all with limits (G10)."""

import json
import re
import zlib
from collections.abc import Mapping

import msgspec

from weighbridge.errors import InvalidError, LimitError
from weighbridge.gateway.requests.msgpack import decode_msgpack

BODY_BYTES_MAX = 8 * 1024 * 1024
"""After decompression."""
DEPTH_MAX = 64

_JSON_TYPES = frozenset({"", "application/json"})
_MSGPACK_TYPES = frozenset(
    {"application/vnd.msgpack", "application/msgpack", "application/x-msgpack"}
)
_QUICK = msgspec.json.Decoder()
_NAME_ENDS = (b'":', b" :", b"\t:", b"\n:", b"\r:")
_TEXTS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"')
_GZIP_WINDOW_BITS = 31  # zlib's way to say: a gzip header, nothing else


def read_object(body: bytes, content_type: str, content_encoding: str) -> dict[str, object]:
    """The request's one object; raises InvalidError, or LimitError for a body over the limit."""
    plain = _decompress(body, content_encoding.strip().lower())
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type in _JSON_TYPES:
        value = decode_json(plain)
    elif media_type in _MSGPACK_TYPES:
        value = decode_msgpack(plain, DEPTH_MAX)
    else:
        raise InvalidError(
            "Content-Type must be application/json or application/vnd.msgpack",
            code="unsupported_media_type",
        )
    if not isinstance(value, dict):
        raise _wrong("body: the request must be one object")
    return value


def body_too_large() -> LimitError:
    return LimitError(f"The body is over {BODY_BYTES_MAX} bytes", code="body_too_large")


def _decompress(body: bytes, encoding: str) -> bytes:
    if encoding in ("", "identity"):
        if len(body) > BODY_BYTES_MAX:
            raise body_too_large()
        return body
    if encoding != "gzip":
        raise InvalidError("Content-Encoding must be gzip or absent", code="unsupported_media_type")
    inflater = zlib.decompressobj(_GZIP_WINDOW_BITS)
    try:
        plain = inflater.decompress(body, BODY_BYTES_MAX + 1)
    except zlib.error as error:
        raise _wrong("body: not valid gzip") from error
    if len(plain) > BODY_BYTES_MAX:
        raise body_too_large()
    if not inflater.eof or inflater.unused_data:
        raise _wrong("body: gzip is cut short or followed by more data")
    return plain


def decode_json(text: bytes) -> object:
    """Strict JSON: UTF-8, no duplicate names, no NaN or Infinity, no lone surrogates, depth limited.

    The quick decoder takes the last of two members of the same name; so the members in what it made are counted
    against those in the text. Whatever it cannot read, or does not add up, is read slowly, which also finds
    the words for the refusal.
    """
    try:
        value: object = _QUICK.decode(text)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return _decode_slowly(text)
    members = _count_members(value)
    # The first count has every colon that ends a name, and of those within texts only few: never too low.
    if members != sum(text.count(end) for end in _NAME_ENDS) and (
        members != _TEXTS.sub(b"", text).count(b":")
    ):
        return _decode_slowly(text)
    return value


def _decode_slowly(text: bytes) -> object:
    try:
        value: object = json.loads(
            text.decode(), object_pairs_hook=_unique, parse_constant=_no_constant
        )
        if text.count(b"\\u"):
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        where = f"at line {error.lineno} column {error.colno}"
        raise _wrong(f": Invalid JSON: {error.msg} {where}") from error
    except UnicodeError as error:
        raise _wrong(": Invalid JSON: text is not Unicode") from error
    except RecursionError as error:
        raise _too_deep() from error
    except ValueError as error:
        # A number of more digits than Python converts.
        raise _wrong(": Invalid JSON: a number is too long") from error
    _check_depth(value)
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _wrong(": Invalid JSON: an object names a member twice")
    return members


def _no_constant(name: str) -> object:
    raise _wrong(f": Invalid JSON: {name} is not a JSON value")


def _count_members(value: object) -> int:
    """Of all objects in the value. Raises InvalidError where it is nested too deep."""
    if not isinstance(value, dict | list):
        return 0
    members, level = 0, [value]
    for _ in range(DEPTH_MAX):
        below: list[dict[str, object] | list[object]] = []
        for parent in level:
            if isinstance(parent, dict):
                members += len(parent)
            for child in parent.values() if isinstance(parent, dict) else parent:
                if isinstance(child, dict | list):
                    below.append(child)  # noqa: PERF401 - a comprehension hides the type from the checker
        if not below:
            return members
        level = below
    raise _too_deep()


def _check_depth(value: object) -> None:
    level = [value]
    for _ in range(DEPTH_MAX):
        level = [
            child
            for parent in level
            for child in _children(parent)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise _too_deep()


def _children(value: object) -> list[object]:
    if isinstance(value, Mapping):
        return list(value.values())
    return value if isinstance(value, list) else []


def _too_deep() -> InvalidError:
    return _wrong(f": Invalid JSON: nested deeper than {DEPTH_MAX}")


def _wrong(message: str) -> InvalidError:
    return InvalidError(message, code="wrong_api_format")
