"""An engine of the gateway benchmark: fixed answers at the least possible cost, on the ports given."""

import asyncio
import re
import sys
import time

import uvloop

CHUNKS = 50
WORD = "weigh " * 20
_MODEL = re.compile(rb'"model" ?: ?"([^"]*)"')
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
_STREAM = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)
_WHOLE = (
    b'{"choices":[{"finish_reason":"stop","index":0,"message":{"role":"assistant","content":"%b"}}],'
    b'"created":1763770000,"model":"%b","system_fingerprint":"b1-engine","object":"chat.completion",'
    b'"usage":{"completion_tokens":20,"prompt_tokens":100,"total_tokens":120},"id":"chatcmpl-engine"}'
)
_EVENT = (
    b'data: {"choices":[{"finish_reason":%b,"index":0,"delta":{%b}}],"created":1763770000,'
    b'"id":"chatcmpl-8Tw2CkUPgNzkMZQzqkQzqkQzqkQzqkQz","model":"%b","system_fingerprint":"b1-engine",'
    b'"object":"chat.completion.chunk"}\n\n'
)
_USAGE = (
    b'data: {"choices":[],"created":1763770000,"id":"chatcmpl-engine","model":"%b","system_fingerprint":"b1-engine",'
    b'"object":"chat.completion.chunk","usage":{"completion_tokens":50,"prompt_tokens":100,"total_tokens":150}}\n\n'
)


class Engine(asyncio.Protocol):
    def __init__(self, pause_s: float) -> None:
        self.pause_s = pause_s
        self.held = b""
        self.task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self.task is not None:
            self.task.cancel()

    def data_received(self, data: bytes) -> None:
        self.held += data
        end = self.held.find(b"\r\n\r\n")
        if end == -1:
            return
        found = _LENGTH.search(self.held, 0, end)
        size = end + 4 + (int(found[1]) if found else 0)
        if len(self.held) < size:
            return
        request, self.held = self.held[:size], self.held[size:]
        named = _MODEL.search(request, end)
        name = named[1] if named else b"none"
        if b'"stream":true' in request or b'"stream": true' in request:
            self.task = asyncio.get_running_loop().create_task(self.stream(name))
        elif request.startswith(b"GET"):
            body = b'{"object":"list","data":[{"id":"bench-0","object":"model"}],"model_path":"bench-0"}'
            self.transport.write(_JSON % (len(body), body))
        else:
            body = _WHOLE % (WORD.encode(), name)
            self.transport.write(_JSON % (len(body), body))

    async def stream(self, name: bytes) -> None:
        write = self.transport.write
        write(_STREAM)
        first = _EVENT % (b"null", b'"role":"assistant","content":null', name)
        write(b"%x\r\n%b\r\n" % (len(first), first))
        for _ in range(CHUNKS):
            if self.pause_s:
                await asyncio.sleep(self.pause_s)
            stamp = b'"content":"%d "' % time.monotonic_ns()
            event = _EVENT % (b"null", stamp, name)
            write(b"%x\r\n%b\r\n" % (len(event), event))
        last = _EVENT % (b'"stop"', b"", name) + _USAGE % name
        write(b"%x\r\n%b\r\n" % (len(last), last))
        done = b"data: [DONE]\n\n"
        write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(done), done))


async def serve(pause_s: float, ports: list[int]) -> None:
    loop = asyncio.get_running_loop()
    for port in ports:
        await loop.create_server(lambda: Engine(pause_s), "127.0.0.1", port, backlog=4096)
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(float(sys.argv[1]), [int(port) for port in sys.argv[2:]]))
