"""Forwarding to the control plane's unix socket: its paths, its answers, untouched but for hop-by-hop headers."""

from collections.abc import Container
from pathlib import Path

import aiohttp
from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, UnixConnector, web
from yarl import URL

from weighbridge.errors import UnavailableError
from weighbridge.gateway.http.bodies import read_body
from weighbridge.gateway.http.limits import CONTROL_BODY_BYTES_MAX, Limits
from weighbridge.gateway.metrics.access import AccessRecord

SEGMENTS = frozenset({"management", "admin", "api", "console", "openapi.json", "docs"})
"""First path segments that are the control plane's."""
ANSWER_IDLE_S = 300.0
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_NOT_SENT = _HOP_BY_HOP | {"content-length", "expect", "x-request-id"}


def is_control_path(path: str) -> bool:
    """`path` as it came, without the query; an encoded slash or letter does not count."""
    return path.startswith("/") and path[1:].partition("/")[0] in SEGMENTS


class ControlForward:
    def __init__(self, socket: Path, limits: Limits) -> None:
        self._limits = limits
        self._session = ClientSession(
            connector=UnixConnector(str(socket), limit=0),
            timeout=ClientTimeout(
                total=None, sock_connect=limits.connect_s, sock_read=ANSWER_IDLE_S
            ),
            cookie_jar=DummyCookieJar(),
            auto_decompress=False,
        )

    async def close(self) -> None:
        await self._session.close()

    async def forward(self, request: web.BaseRequest, record: AccessRecord) -> web.StreamResponse:
        """Raises UnavailableError when the control plane is away; nothing is sent twice."""
        body = await read_body(request, CONTROL_BODY_BYTES_MAX, self._limits.body_idle_s)
        headers = [
            (name, value)
            for name, value in request.headers.items()
            if _may_pass(name, request.headers.get("connection", ""), _NOT_SENT)
        ]
        try:
            upstream = await self._session.request(
                request.method,
                # The path goes on as it came: `models%3Aupload` must not become something else.
                URL(f"http://control{request.raw_path}", encoded=True),
                headers=[*headers, ("x-request-id", record.request_id)],
                data=body or None,
                skip_auto_headers=("user-agent", "accept-encoding", "accept", "content-type"),
                allow_redirects=False,
            )
        except (aiohttp.ClientError, ConnectionError) as error:
            raise UnavailableError(
                "The control plane is away; try again shortly", code="control_plane_away"
            ) from error
        try:
            record.status = upstream.status
            return await _relay(request, upstream, record)
        finally:
            upstream.close()


async def _relay(
    request: web.BaseRequest, upstream: aiohttp.ClientResponse, record: AccessRecord
) -> web.StreamResponse:
    out = web.StreamResponse(status=upstream.status, reason=upstream.reason)
    connection = upstream.headers.get("connection", "")
    for name, value in upstream.headers.items():
        if _may_pass(name, connection, _HOP_BY_HOP | {"x-request-id"}):
            out.headers.add(name, value)
    out.headers["x-request-id"] = record.request_id
    await out.prepare(request)
    try:
        while piece := await upstream.content.readany():
            await out.write(piece)
    except aiohttp.ClientPayloadError:
        # The cut must show: without its end the answer cannot be taken for a whole one.
        if request.transport is not None:
            request.transport.abort()
        return out
    await out.write_eof()
    return out


def _may_pass(name: str, connection: str, stopped: Container[str]) -> bool:
    lower = name.lower()
    named = {part.strip().lower() for part in connection.split(",")}
    return lower not in stopped and lower not in named and not lower.startswith("x-forwarded-")
