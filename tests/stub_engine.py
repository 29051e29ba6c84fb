"""An engine of the tests: OpenAI routes with llama.cpp's wire habits, a token, and faults on request."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

SPACED_S = 0.005


@dataclass
class StubEngine:
    """`mode` is the fault of the next requests; `tokens` the words of each answer."""

    served_name: str
    token: str
    mode: str = "ok"
    tokens: int = 5
    pause_s: float = 0.0
    open_now: int = 0
    aborted: int = 0
    bodies: list[dict] = field(default_factory=list)
    headers: list[dict] = field(default_factory=list)
    seen: list[asyncio.Transport] = field(default_factory=list)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.headers.get("authorization") != f"Bearer {self.token}":
            return web.json_response({"error": {"message": "Invalid API Key"}}, status=401)
        body = json.loads(await request.content.read())
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        self.open_now += 1
        try:
            return await self._answer(request, body)
        except asyncio.CancelledError:
            self.aborted += 1
            raise
        finally:
            self.open_now -= 1

    async def _answer(self, request: web.BaseRequest, body: dict) -> web.StreamResponse:
        if self.mode == "500":
            return web.json_response({"error": {"message": "out of memory"}}, status=500)
        if self.mode == "busy":
            return web.json_response({"error": {"message": "queue full"}}, status=429)
        if self.mode == "context":
            message = f"request exceeds the available context size of {self.served_name}"
            return web.json_response({"error": {"message": message}}, status=400)
        if self.mode == "drop" or (self.mode == "no_reuse" and request.transport in self.seen):
            request.transport.abort()
            return web.Response()
        self.seen.append(request.transport)
        if self.mode == "silent":
            await self.released.wait()
        name = "other.replica" if self.mode == "wrong_name" else self.served_name
        chat = request.path.endswith("/chat/completions")
        if body.get("stream"):
            return await self._stream(request, name, chat=chat)
        return web.json_response(self._whole(name, chat=chat))

    def _whole(self, name: str, *, chat: bool) -> dict:
        text = "".join(self._words())
        message = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        return {
            "choices": [{"finish_reason": "stop", "index": 0, **message}],
            "created": 1,
            "model": name,
            "system_fingerprint": "b1-engine",
            "object": "chat.completion" if chat else "text_completion",
            "usage": self._usage(),
            "id": "chatcmpl-engine",
            "timings": {"prompt_ms": 2.0, "predicted_ms": 3.0},
        }

    async def _stream(
        self, request: web.BaseRequest, name: str, *, chat: bool
    ) -> web.StreamResponse:
        out = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await out.prepare(request)
        for number, event in enumerate(self._events(chat=chat)):
            if self.mode == "cut" and number == 3:
                await out.write(b'data: {"choices":[{"del')
                request.transport.abort()
                return out
            if self.mode == "error_event" and number == 3:
                await out.write(b'error: {"code":500,"message":"slot failed"}\n\n')
                return out
            if self.mode == "other_fingerprint" and number == 3:
                event["system_fingerprint"] = "b2-engine"
            if self.mode == "early_end" and number == 3:
                await out.write_eof()
                return out
            if self.mode == "stall" and number == 3:
                while not self.released.is_set():
                    await out.write(b": still here\n\n")
                    await asyncio.sleep(0.05)
            event.update(model=name, created=1, id="chatcmpl-engine")
            event.setdefault("system_fingerprint", "b1-engine")
            await out.write(b"data: " + json.dumps(event).encode() + b"\n\n")
            await asyncio.sleep(self.pause_s)
        await out.write(b"data: [DONE]\n\n")
        await out.write_eof()
        return out

    def _events(self, *, chat: bool) -> list[dict]:
        def event(**choice: object) -> dict:
            return {"choices": [{"index": 0, "finish_reason": None, **choice}]}

        words = self._words()
        if chat:
            events = [event(delta={"role": "assistant", "content": None})]
            events += [event(delta={"content": word}) for word in words]
            last = event(delta={})
        else:
            events = [event(text=word) for word in words]
            last = event(text="")
        last["choices"][0]["finish_reason"] = "stop"
        usage = {
            "choices": [],
            "usage": self._usage(),
            "timings": {"prompt_ms": 2.0, "predicted_ms": 3.0},
        }
        return [*events, last, usage]

    def _words(self) -> list[str]:
        return [f"w{number} " for number in range(self.tokens)]

    def _usage(self) -> dict:
        return {
            "prompt_tokens": 7,
            "completion_tokens": self.tokens,
            "total_tokens": 7 + self.tokens,
            "prompt_tokens_details": {"cached_tokens": 4},
        }


@asynccontextmanager
async def running(engine: StubEngine) -> AsyncIterator[str]:
    """Serve it on a free port of the loopback; the value is its URL."""
    server = web.Server(engine, handler_cancellation=True, access_log=None)
    runner = web.ServerRunner(server, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        engine.released.set()
        await runner.cleanup()
