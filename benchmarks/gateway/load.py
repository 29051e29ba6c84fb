"""Callers of the gateway benchmark: closed loops on kept connections; prints what they saw as one JSON line."""

import asyncio
import json
import re
import statistics
import sys
import time

import uvloop

SETTLE_S = 0.5
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_STAMP = re.compile(rb'"content": ?"(\d{9,}) ')
_LAST = b"0\r\n\r\n"


class Caller(asyncio.Protocol):
    """Asks again as soon as it has its answer, until the load says it is enough."""

    def __init__(self, load: "Load") -> None:
        self.load = load
        self.held = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.load.over:
            self.load.errors += 1

    def ask(self) -> None:
        if self.load.over:
            self.transport.close()
            return
        self.held = b""
        self.first = True
        self.asked_s = time.perf_counter()
        self.transport.write(self.load.request)

    def data_received(self, data: bytes) -> None:
        if self.load.stream:
            self.stream(data)
            return
        self.held = self.held + data if self.held else data
        end = self.held.find(b"\r\n\r\n")
        if end == -1:
            return
        found = _LENGTH.search(self.held, 0, end + 2)
        if found is None:
            if not self.held.endswith(_LAST):
                return
        elif len(self.held) < end + 4 + int(found[1]):
            return
        self.load.answered(self.held.startswith(b"HTTP/1.1 200"), self.asked_s)
        self.ask()

    def stream(self, data: bytes) -> None:
        load = self.load
        now_ns = time.monotonic_ns()
        for stamp in _STAMP.findall(data):
            load.chunks += 1
            load.delays_ms.append((now_ns - int(stamp)) / 1e6)
            if self.first:
                self.first = False
                load.firsts_ms.append((time.perf_counter() - self.asked_s) * 1000)
        self.held = (self.held + data)[-4096:]
        if self.held.endswith(_LAST):
            load.answered(b"data: [DONE]" in self.held, self.asked_s)
            self.ask()


class Load:
    def __init__(self, request: bytes, *, stream: bool) -> None:
        self.request = request
        self.stream = stream
        self.over = False
        self.counting = False
        self.errors = self.answers = self.chunks = 0
        self.latencies_ms: list[float] = []
        self.delays_ms: list[float] = []
        self.firsts_ms: list[float] = []

    def answered(self, good: bool, asked_s: float) -> None:
        self.answers += 1
        self.errors += not good
        self.latencies_ms.append((time.perf_counter() - asked_s) * 1000)

    async def last(self, seconds: float, answers: int | None) -> None:
        """Until the time is over, or so many answers have come."""
        end_s = time.perf_counter() + seconds
        if answers is None:
            await asyncio.sleep(seconds)
            return
        while self.answers < answers and time.perf_counter() < end_s:
            await asyncio.sleep(0.2)
            self.latencies_ms.clear()

    def reset(self) -> None:
        self.errors = self.answers = self.chunks = 0
        for samples in (self.latencies_ms, self.delays_ms, self.firsts_ms):
            samples.clear()


def percentile(samples: list[float], share: float) -> float:
    return sorted(samples)[int(share * (len(samples) - 1))] if samples else 0.0


async def run(options: dict) -> dict:
    loop = asyncio.get_running_loop()
    load = Load(request(options), stream=options["stream"])
    for _ in range(options["connections"]):
        await loop.create_connection(lambda: Caller(load), "127.0.0.1", options["port"])
    await asyncio.sleep(SETTLE_S)
    print("begin", flush=True)
    load.reset()
    began_s = time.perf_counter()
    await load.last(options["seconds"], options.get("answers"))
    took_s = time.perf_counter() - began_s
    seen = {
        "answers": load.answers,
        "chunks": load.chunks,
        "errors": load.errors,
        "seconds": took_s,
        "p50_ms": percentile(load.latencies_ms, 0.5),
        "p99_ms": percentile(load.latencies_ms, 0.99),
        "delay_p50_ms": statistics.median(load.delays_ms) if load.delays_ms else 0.0,
        "first_p50_ms": percentile(load.firsts_ms, 0.5),
        "first_p99_ms": percentile(load.firsts_ms, 0.99),
    }
    print("end", flush=True)
    load.over = True
    return seen


def request(options: dict) -> bytes:
    body = json.dumps(
        {
            "model": options["model"],
            "messages": [
                {"role": "system", "content": "You are a helpful assistant: be brief."},
                {"role": "user", "content": "weigh " * 75},
            ],
            "max_completion_tokens": 64,
            "temperature": 0.2,
            "stream": options["stream"],
        }
    ).encode()
    lines = (
        "POST /v1/chat/completions HTTP/1.1",
        f"Host: 127.0.0.1:{options['port']}",
        f"Content-Length: {len(body)}",
        "Accept: application/json",
        "Accept-Encoding: gzip, deflate",
        "Content-Type: application/json",
        "User-Agent: OpenAI/Python 2.8.1",
        "X-Stainless-Lang: python",
        "X-Stainless-Package-Version: 2.8.1",
        "X-Stainless-OS: Linux",
        "X-Stainless-Arch: x64",
        "X-Stainless-Retry-Count: 0",
        f"Authorization: Bearer {options['key']}",
    )
    return "\r\n".join([*lines, "", ""]).encode() + body


if __name__ == "__main__":
    print(json.dumps(uvloop.run(run(json.loads(sys.argv[1])))))
