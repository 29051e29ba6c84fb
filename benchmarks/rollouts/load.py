"""Callers of the rollout benchmark: closed loops of streams that are never tried again; runs until stdin ends.

Prints one JSON line: whole streams by version, and every other stream with its time and what became of it.
"""

import asyncio
import json
import random
import re
import sys
import time
from collections import Counter

import uvloop

TOKENS = (40, 120)
PAUSE_AFTER_FAILURE_S = 0.1
_FINGERPRINT = re.compile(rb'"system_fingerprint": ?"([^"]+)"')
_DONE = b"data: [DONE]"
_END = b"0\r\n\r\n"


class Load:
    def __init__(self, options: dict) -> None:
        self.options = options
        self.stopping = False
        self.whole: Counter[str] = Counter()
        self.problems: list[dict[str, object]] = []
        self.random = random.Random(options["seed"])

    async def call_on(self) -> None:
        while not self.stopping:
            outcome, detail = await self.stream()
            if outcome == "whole":
                self.whole[detail] += 1
            else:
                self.problems.append(
                    {"outcome": outcome, "detail": detail, "monotonic_s": time.monotonic()}
                )
                await asyncio.sleep(PAUSE_AFTER_FAILURE_S)

    async def stream(self) -> tuple[str, str]:
        """`whole` with its version's fingerprint, else `failed`, `cut` or `mixed` with what was seen."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.options["port"])
        except OSError as error:
            return "failed", str(error)
        try:
            writer.write(self.request())
            status = await reader.readuntil(b"\r\n\r\n")
            if not status.startswith(b"HTTP/1.1 200"):
                return "failed", status.partition(b"\r\n")[0].decode()
            body = bytearray()
            while piece := await reader.read(65536):
                body += piece
                if body.endswith(_END):
                    break
        except (OSError, asyncio.IncompleteReadError) as error:
            return "cut", repr(error)
        finally:
            writer.close()
        versions = {found.decode() for found in _FINGERPRINT.findall(body)}
        if len(versions) > 1:
            return "mixed", ", ".join(sorted(versions))
        if _DONE not in body or not versions:
            return "cut", bytes(body[-200:]).decode(errors="replace")
        return "whole", versions.pop()

    def request(self) -> bytes:
        body = json.dumps(
            {
                "model": self.options["model"],
                "messages": [{"role": "user", "content": "Tell me about weighbridges."}],
                "max_completion_tokens": self.random.randint(*TOKENS),
                "stream": True,
            }
        ).encode()
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Authorization: Bearer {self.options['key']}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


async def run(options: dict) -> dict[str, object]:
    load = Load(options)
    callers = [asyncio.create_task(load.call_on()) for _ in range(options["streams"])]
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    load.stopping = True
    await asyncio.gather(*callers)
    return {"whole": load.whole, "problems": load.problems}


if __name__ == "__main__":
    print(json.dumps(uvloop.run(run(json.loads(sys.argv[1])))))
