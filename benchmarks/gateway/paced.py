"""Streams that begin at times of their own, whatever the answers take; prints one JSON line.

The gaps between two beginnings are exponential, from a seeded chance, so that the same times are played against
every candidate. Callers in a closed loop fall into step: all streams of one length that began together end
together, and the next 64 requests arrive at one instant. A time to the first token counts from when the stream was due.
"""

import asyncio
import json
import random
import re
import sys
import time
from contextlib import suppress

import uvloop

from benchmarks.gateway.load import percentile, request

CONNECTIONS_MAX = 512
SEED = 11
LAST_S = 30.0
"""For the streams that have begun; what has not ended then is an error."""
_TOKEN = re.compile(rb'"content": ?"\d')
_LAST = b"0\r\n\r\n"


class Caller(asyncio.Protocol):
    """One stream at a time on a kept connection."""

    def __init__(self, paced: "Paced") -> None:
        self.paced = paced
        self.held = b""
        self.began = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def ask(self, due_s: float) -> None:
        self.due_s = due_s
        self.held, self.began = b"", False
        self.paced.open_now += 1
        self.paced.idle.clear()
        self.transport.write(self.paced.request)

    def data_received(self, data: bytes) -> None:
        self.held = (self.held + data)[-4096:]
        if not self.began and _TOKEN.search(self.held):
            self.began = True
            self.paced.firsts_ms.append((time.perf_counter() - self.due_s) * 1000)
        if self.held.endswith(_LAST):
            self.paced.ended(self, good=self.began and b"data: [DONE]" in self.held)

    def connection_lost(self, exc: Exception | None) -> None:
        self.paced.errors += not self.paced.over


class Paced:
    def __init__(self, body: bytes) -> None:
        self.request = body
        self.free: list[Caller] = []
        self.firsts_ms: list[float] = []
        self.concurrent: list[int] = []
        self.answers = self.errors = self.open_now = 0
        self.over = False
        self.idle = asyncio.Event()

    def ended(self, caller: Caller, *, good: bool) -> None:
        self.answers += 1
        self.errors += not good
        self.open_now -= 1
        self.free.append(caller)
        if not self.open_now:
            self.idle.set()

    def begin(self, due_s: float) -> None:
        self.concurrent.append(self.open_now)
        if self.free:
            self.free.pop().ask(due_s)
        else:
            self.errors += 1


async def run(options: dict) -> dict[str, float]:
    """`per_s` streams begin in the mean; the first `warm_s` are played, but not measured."""
    loop = asyncio.get_running_loop()
    paced = Paced(request({**options, "stream": True}))
    for _ in range(CONNECTIONS_MAX):
        _, caller = await loop.create_connection(
            lambda: Caller(paced), "127.0.0.1", options["port"]
        )
        paced.free.append(caller)
    chance = random.Random(SEED)
    began_s = due_s = time.perf_counter()
    warm = True
    while due_s < began_s + options["warm_s"] + options["seconds"]:
        due_s += chance.expovariate(options["per_s"])
        if (ahead_s := due_s - time.perf_counter()) > 0:
            await asyncio.sleep(ahead_s)
        if warm and due_s > began_s + options["warm_s"]:
            warm = False
            paced.firsts_ms.clear()
            paced.concurrent.clear()
        paced.begin(due_s)
    streams = sum(paced.concurrent) / max(1, len(paced.concurrent))
    with suppress(TimeoutError):
        await asyncio.wait_for(paced.idle.wait(), LAST_S)
    paced.errors += paced.open_now
    paced.over = True
    return {
        "answers": paced.answers,
        "errors": paced.errors,
        "streams": streams,
        "p50_ms": percentile(paced.firsts_ms, 0.5),
        "p99_ms": percentile(paced.firsts_ms, 0.99),
    }


if __name__ == "__main__":
    print(json.dumps(uvloop.run(run(json.loads(sys.argv[1])))))
