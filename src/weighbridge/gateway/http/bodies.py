"""Reading a request's body with a size limit and an idle limit."""

import asyncio

from aiohttp import web

from weighbridge.errors import InvalidError, LimitError


async def read_body(request: web.BaseRequest, size_bytes_max: int, idle_s: float) -> bytes:
    """Raises LimitError as soon as the limit is passed, InvalidError when the sender stalls."""
    if (request.content_length or 0) > size_bytes_max:
        raise _too_large(size_bytes_max)
    if request.headers.get("expect", "").lower() == "100-continue" and request.transport:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    pieces: list[bytes] = []
    size_bytes = 0
    try:
        while True:
            async with asyncio.timeout(idle_s):
                piece = await request.content.readany()
            if not piece:
                return b"".join(pieces)
            size_bytes += len(piece)
            if size_bytes > size_bytes_max:
                raise _too_large(size_bytes_max)
            pieces.append(piece)
    except TimeoutError as error:
        raise InvalidError("The body did not arrive in time", code="body_too_slow") from error


def _too_large(size_bytes_max: int) -> LimitError:
    return LimitError(f"The body is over {size_bytes_max} bytes", code="body_too_large")
