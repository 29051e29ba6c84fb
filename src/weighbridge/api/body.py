"""A request's JSON body, read strictly and within limits before anything is made of it."""

import email.message
import json

from fastapi import Request
from starlette.types import Scope

from weighbridge.api.errors import BodyTooLargeError, ContentTypeError
from weighbridge.errors import InvalidError
from weighbridge.weights.strict_json import JsonLimits, parse_object

BODY_BYTES_MAX = 1024 * 1024
LIMITS = JsonLimits(bytes_max=BODY_BYTES_MAX, nodes_max=20_000)


class JsonRequest(Request):
    """A request whose body is read and parsed already."""

    def __init__(self, scope: Scope, content: bytes, value: object) -> None:
        super().__init__(scope)
        self._content = content
        self._value = value

    async def body(self) -> bytes:
        return self._content

    async def json(self) -> object:
        return self._value


async def read_json(request: Request) -> tuple[bytes, object]:
    """The body and its value. Raises BodyTooLargeError, ContentTypeError or InvalidError; empty stays empty."""
    content = await _read(request)
    if not content:
        return b"", None
    _check_content_type(request)
    value = parse_object(content, what="The request body", code="wrong_api_format", limits=LIMITS)
    if b"\\u" in content:
        _check_characters(value)
    return content, value


async def _read(request: Request) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared[:20]) > BODY_BYTES_MAX:
        raise _too_large()
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > BODY_BYTES_MAX:
            raise _too_large()
        chunks.append(chunk)
    return b"".join(chunks)


def _too_large() -> BodyTooLargeError:
    return BodyTooLargeError(f"A request body has at most {BODY_BYTES_MAX} bytes.")


def _check_content_type(request: Request) -> None:
    message = email.message.Message()
    message["content-type"] = request.headers.get("content-type", "")
    charset = str(message.get_param("charset", "utf-8")).lower()
    if message.get_content_type() != "application/json" or charset not in ("utf-8", "utf8"):
        raise ContentTypeError("Send the body as application/json in UTF-8.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise ContentTypeError("Send the body without a content encoding.")


def _check_characters(value: object) -> None:
    """Half a surrogate pair can be written as a JSON escape, but is no character."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise InvalidError(
            "The request body holds half a surrogate pair, which is no character.",
            code="wrong_api_format",
        ) from error
