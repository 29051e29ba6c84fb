"""Callers at a fixed rate, whatever the answers take: what an open system sees; prints one JSON line.

A request goes out when its time has come, on whichever kept connection is free; its latency counts from that
time, so that a slow answer is not hidden by asking later (coordinated omission).
"""

import asyncio
import json
import sys
import time

import uvloop

from benchmarks.gateway.load import percentile, request

CONNECTIONS_MAX = 256
_END = b"\r\n\r\n"


class Asker(asyncio.Protocol):
    def __init__(self, rate: "Rate") -> None:
        self.rate = rate
        self.held = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def ask(self, due_s: float) -> None:
        self.due_s = due_s
        self.held = b""
        self.transport.write(self.rate.request)

    def data_received(self, data: bytes) -> None:
        self.held += data
        end = self.held.find(_END)
        if end == -1:
            return
        mark = self.held.lower().find(b"content-length:", 0, end)
        length = int(self.held[mark + 15 :].split(b"\r\n", 1)[0]) if mark != -1 else 0
        if len(self.held) < end + 4 + length:
            return
        self.rate.errors += not self.held.startswith(b"HTTP/1.1 200")
        self.rate.latencies_ms.append((time.perf_counter() - self.due_s) * 1000)
        self.rate.free.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.rate.errors += not self.rate.over


class Rate:
    def __init__(self, body: bytes) -> None:
        self.request = body
        self.free: list[Asker] = []
        self.latencies_ms: list[float] = []
        self.errors = self.late = 0
        self.over = False


async def run(options: dict) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    rate = Rate(request({**options, "stream": False}))
    for _ in range(CONNECTIONS_MAX):
        _, asker = await loop.create_connection(lambda: Asker(rate), "127.0.0.1", options["port"])
        rate.free.append(asker)
    period_s = 1 / options["per_s"]
    due_s = time.perf_counter()
    for _ in range(int(options["seconds"] * options["per_s"])):
        due_s += period_s
        if (ahead_s := due_s - time.perf_counter()) > 0:
            await asyncio.sleep(ahead_s)
        if rate.free:
            # The timer's own lateness is the caller's, not the server's: both sides of a comparison have it.
            rate.free.pop().ask(due_s)
        else:
            rate.errors += 1
    await asyncio.sleep(1.0)
    rate.over = True
    return {
        "answers": len(rate.latencies_ms),
        "errors": rate.errors,
        "p50_ms": percentile(rate.latencies_ms, 0.5),
        "p99_ms": percentile(rate.latencies_ms, 0.99),
    }


if __name__ == "__main__":
    print(json.dumps(uvloop.run(run(json.loads(sys.argv[1])))))
