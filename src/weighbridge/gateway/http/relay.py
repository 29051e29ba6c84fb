"""One stream from a replica to a caller: when it begins, how it keeps pace, and how it ends (G2, G4, G10)."""

import asyncio

import aiohttp
from aiohttp import ClientResponse, web

from weighbridge.errors import UnavailableError
from weighbridge.gateway.answers.rendering import AnswerIdentity
from weighbridge.gateway.answers.stream import AnswerStream
from weighbridge.gateway.errors import error_answer, error_event
from weighbridge.gateway.http.exchange import ClientGoneError, Exchange, TooLateError
from weighbridge.gateway.http.limits import SERVER
from weighbridge.gateway.http.upstream import AttemptFailedError

_TAIL_S = 0.5
"""Wait for an engine to end its stream after `[DONE]`, so that its connection can be used again."""
_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
    "server": SERVER,
}


class Relay:
    """Nothing is sent, not even headers, before the engine's first event has proven who answers."""

    def __init__(
        self, exchange: Exchange, identity: AnswerIdentity, upstream: ClientResponse
    ) -> None:
        self._exchange = exchange
        self._upstream = upstream
        self._answer = AnswerStream(identity)
        self._out: web.StreamResponse | None = None

    async def run(self) -> web.StreamResponse:
        """Raises AttemptFailedError or TooLateError while nothing was sent, ClientGoneError when nobody reads."""
        try:
            await self._relay()
        except TooLateError as error:
            await self._end_with(error)
        except UnavailableError as error:
            if self._out is None:
                raise AttemptFailedError(error) from error
            await self._end_with(error)
        finally:
            self._exchange.count_tokens(self._answer.usage, self._answer.chunks)
        assert self._out is not None
        await self._write_end(self._out)
        if self._answer.complete:
            self._exchange.record.status = 200
            await self._read_tail()
        return self._out

    async def _relay(self) -> None:
        quiet_by_s = self._exchange.first_byte_by_s()
        while not self._answer.complete:
            seen = self._answer.events
            received = await self._receive(quiet_by_s)
            elapsed = self._exchange.elapsed()
            answer = self._answer
            frames = answer.feed(received, elapsed) if received else answer.end(elapsed)
            if self._answer.events > seen:
                # Comments do not count: an engine that only keeps the line open is idle.
                quiet_by_s = self._exchange.idle_by_s()
            if frames:
                await self._send(frames)

    async def _receive(self, by_s: float) -> bytes:
        try:
            async with asyncio.timeout_at(by_s):
                return await self._upstream.content.readany()
        except TimeoutError as error:
            raise TooLateError from error
        except (aiohttp.ClientError, ConnectionError) as error:
            if self._answer.finished:
                # Every choice has its finish reason: only the engine's good-bye is missing.
                return b""
            raise UnavailableError("The engine broke off the answer", code="answer_cut") from error

    async def _send(self, frames: bytes) -> None:
        if self._out is None:
            self._exchange.mark_first_byte()
            record = self._exchange.record
            headers = {**_HEADERS, **record.answer_headers, "x-request-id": record.request_id}
            self._out = web.StreamResponse(headers=headers)
            try:
                await self._out.prepare(self._exchange.request)
            except ConnectionError as error:
                raise ClientGoneError from error
        await self._write(self._out, frames)

    async def _write(self, out: web.StreamResponse, frames: bytes) -> None:
        """Waits while the caller reads slowly, which stops reading from the engine too, but not for ever."""
        try:
            async with asyncio.timeout(self._exchange.limits.write_s):
                await out.write(frames)
        except (TimeoutError, ConnectionError) as error:
            transport = self._exchange.request.transport
            if transport is not None:
                transport.abort()
            raise ClientGoneError from error

    async def _write_end(self, out: web.StreamResponse) -> None:
        try:
            async with asyncio.timeout(self._exchange.limits.write_s):
                await out.write_eof()
        except (TimeoutError, ConnectionError) as error:
            raise ClientGoneError from error

    async def _end_with(self, error: UnavailableError) -> None:
        """The one error event of a stream that has begun; before that, the error is the answer."""
        if self._out is None:
            raise error
        record = self._exchange.record
        record.status, record.code = error_answer(error).status, error.code
        await self._write(self._out, error_event(error, self._exchange.answer_id))

    async def _read_tail(self) -> None:
        try:
            async with asyncio.timeout(_TAIL_S):
                while await self._upstream.content.readany():
                    pass
        except (TimeoutError, aiohttp.ClientError, ConnectionError):
            return
