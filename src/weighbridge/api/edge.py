"""The outermost layer of the app: request ids, trailing slashes, one log line per request, and no bare failure."""

import re

import structlog
from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from weighbridge.api.errors import flat
from weighbridge.clock import Clock

log = structlog.get_logger()

REQUEST_ID = "x-request-id"
WELL_FORMED_ID = re.compile(rb"[A-Za-z0-9_-]{1,64}")


class Edge:
    """Wraps the whole app; what it logs of a request has no query string and no header."""

    def __init__(self, app: ASGIApp, clock: Clock) -> None:
        self._app = app
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _given_id(scope) or self._clock.new_short_id()
        started = self._clock.monotonic()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                if scope["path"].isprintable():
                    await self._app(_without_trailing_slash(scope), receive, send_with_id)
                else:  # no name of ours has such characters, and the database refuses some of them
                    await PlainTextResponse("", 404)(scope, receive, send_with_id)
            except Exception:
                log.exception("api.crashed", method=scope["method"], path=scope["path"])
                if status:
                    raise  # the answer has begun: only breaking the connection can tell the caller
                response = flat(
                    500,
                    f"Something went wrong on our side. Ask your operator about request {request_id}.",
                    type_="server_error",
                    code="internal_error",
                )
                await response(scope, receive, send_with_id)
            log.info(
                "api.request",
                method=scope["method"],
                path=scope["path"],
                status=status,
                duration_ms=round((self._clock.monotonic() - started) * 1000, 1),
            )


def _given_id(scope: Scope) -> str | None:
    """The gateway's id of the request, so that its log, ours and the caller's answer name the same one."""
    for name, value in scope["headers"]:
        if name == REQUEST_ID.encode() and WELL_FORMED_ID.fullmatch(value):
            return str(value, "ascii")
    return None


def _without_trailing_slash(scope: Scope) -> Scope:
    path: str = scope["path"]
    return {**scope, "path": path[:-1]} if len(path) > 1 and path.endswith("/") else scope
