"""Connections to replicas: one POST, written from scratch, and what its failure means."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import BytesIO

import aiohttp
from aiohttp import ClientResponse, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector
from yarl import URL

from weighbridge.errors import LimitError, UnavailableError, WeighbridgeError
from weighbridge.gateway.answers.rendering import AnswerIdentity, WrongIdentityError
from weighbridge.gateway.answers.whole import ANSWER_BYTES_MAX, refusal_of
from weighbridge.gateway.http.limits import UPSTREAM_KEEPALIVE_S
from weighbridge.routing.model import ReplicaRoute
from weighbridge.routing.tokens import replica_token

_REFUSAL_BYTES_MAX = 64 * 1024
_READ_BUFFER_BYTES = 32 * 1024
_WRITE_BYTES = 256 * 1024
_WRONG_IDENTITY = frozenset({401, 403, 404, 421})


class AttemptFailedError(UnavailableError):
    """A replica gave nothing that reached the caller, so another may be asked (G3); `cause` says why."""

    def __init__(self, cause: WeighbridgeError) -> None:
        super().__init__(cause.message, code=cause.code)
        self.cause = cause


@dataclass(slots=True)
class _Trace:
    reused: bool = False


class Upstreams:
    """The worker's client session. Nothing of the caller's headers is passed on."""

    def __init__(self, pepper: bytes, connect_s: float) -> None:
        self._pepper = pepper
        self._pooled = _session(
            TCPConnector(limit=0, keepalive_timeout=UPSTREAM_KEEPALIVE_S), connect_s
        )
        self._fresh = _session(TCPConnector(limit=0, force_close=True), connect_s)

    async def close(self) -> None:
        await self._pooled.close()
        await self._fresh.close()

    @asynccontextmanager
    async def post(
        self, replica: ReplicaRoute, path: str, body: bytes, request_id: str
    ) -> AsyncIterator[ClientResponse]:
        """The replica's answer once its headers are there; leaving the block early closes the connection.

        Raises AttemptFailedError when the replica cannot be reached or hangs up before its headers.
        """
        response = await self._open(replica, path, body, request_id)
        try:
            yield response
        finally:
            # A response read to its end has given its connection back; this ends the others at once (G4).
            response.close()

    async def _open(
        self, replica: ReplicaRoute, path: str, body: bytes, request_id: str
    ) -> ClientResponse:
        url = URL(replica.url.rstrip("/") + path, encoded=True)
        headers = {
            "authorization": f"Bearer {replica_token(self._pepper, replica.replica_id)}",
            "content-type": "application/json",
            "accept-encoding": "identity",
            "x-request-id": request_id,
        }
        try:
            trace = _Trace()
            try:
                return await _send(self._pooled, url, headers, body, trace)
            except aiohttp.ClientConnectionError:
                # llama.cpp closes many a connection without saying so; only a fresh one tells whether it lives.
                if not trace.reused:
                    raise
            return await _send(self._fresh, url, headers, body, trace)
        except (aiohttp.ClientError, ConnectionError) as error:
            cause = UnavailableError(f"A replica is away: {type(error).__name__}")
            raise AttemptFailedError(cause) from error


async def _send(
    session: ClientSession, url: URL, headers: Mapping[str, str], body: bytes, trace: _Trace
) -> ClientResponse:
    return await session.post(
        url,
        # A file is sent piece by piece, so a long prompt does not hold up the other streams.
        data=body if len(body) <= _WRITE_BYTES else BytesIO(body),
        headers=headers,
        skip_auto_headers=("user-agent",),
        allow_redirects=False,
        trace_request_ctx=trace,
    )


def _session(connector: TCPConnector, connect_s: float) -> ClientSession:
    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(_mark_reused)
    return ClientSession(
        connector=connector,
        timeout=ClientTimeout(total=None, connect=None, sock_connect=connect_s),
        cookie_jar=DummyCookieJar(),
        auto_decompress=False,
        read_bufsize=_READ_BUFFER_BYTES,
        trace_configs=[trace],
    )


async def _mark_reused(
    _session: ClientSession, context: object, _params: aiohttp.TraceConnectionReuseconnParams
) -> None:
    trace = getattr(context, "trace_request_ctx", None)
    if isinstance(trace, _Trace):
        trace.reused = True


async def read_answer(response: ClientResponse) -> bytes:
    """The whole body; raises AttemptFailedError when it is cut or over the limit."""
    return await _read(response, ANSWER_BYTES_MAX)


async def check_status(response: ClientResponse, identity: AnswerIdentity) -> None:
    """Raises InvalidError for what the caller must change, AttemptFailedError for what another replica may do."""
    if response.status == 200:
        return
    if response.status in _WRONG_IDENTITY:
        raise AttemptFailedError(
            WrongIdentityError(f"A replica answered {response.status} to its own token")
        )
    if response.status == 429:
        raise AttemptFailedError(LimitError("The replica's queue is full", code="queue_exceeded"))
    if not 400 <= response.status < 500:
        cause = UnavailableError(f"A replica answered {response.status}", code="engine_failed")
        raise AttemptFailedError(cause)
    raise refusal_of(await _read(response, _REFUSAL_BYTES_MAX), identity)


async def _read(response: ClientResponse, size_bytes_max: int) -> bytes:
    pieces: list[bytes] = []
    size_bytes = 0
    try:
        while piece := await response.content.readany():
            size_bytes += len(piece)
            if size_bytes > size_bytes_max:
                too_long = UnavailableError("A replica's answer is too long", code="engine_failed")
                raise AttemptFailedError(too_long)
            pieces.append(piece)
    except (aiohttp.ClientError, ConnectionError) as error:
        cut = UnavailableError("A replica's answer was cut", code="answer_cut")
        raise AttemptFailedError(cut) from error
    return b"".join(pieces)
