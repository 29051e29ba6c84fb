"""An engine of the rollout benchmark: answers at a real model's pace, and fails as its weights tell it to.

The weights are one tensor of bytes, the JSON of `Behaviour`: so versions differ in content, as real ones do.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from aiohttp import web

TENSOR = "behaviour"
TENSOR_BYTES = 512
TOKENS_DEFAULT = 64
EXIT_CODE = 3


@dataclass(frozen=True, slots=True)
class Behaviour:
    """`fault`: none; `exit` at the start; `wedged`, never ready; `sick`, no answer to a question; `stranger`,
    another name. `token_s` is the time between two tokens of one stream.
    """

    name: str
    start_s: float = 1.5
    token_s: float = 0.03
    fault: str = "none"


def weights(behaviour: Behaviour) -> bytes:
    """A safetensors file that holds the behaviour."""
    data = json.dumps(asdict(behaviour)).encode().ljust(TENSOR_BYTES)
    header = json.dumps(
        {TENSOR: {"dtype": "U8", "shape": [TENSOR_BYTES], "data_offsets": [0, TENSOR_BYTES]}}
    ).encode()
    header = header.ljust(-(-len(header) // 8) * 8)
    return len(header).to_bytes(8, "little") + header + data


def behaviour_of(model: Path) -> Behaviour:
    content = (model / "model.safetensors").read_bytes()
    return Behaviour(**json.loads(content[-TENSOR_BYTES:]))


class Engine:
    def __init__(self, behaviour: Behaviour, served_name: str) -> None:
        self.behaviour = behaviour
        self.served_name = "stranger" if behaviour.fault == "stranger" else served_name
        self.token = os.environ["WEIGHBRIDGE_ENGINE_TOKEN"]
        self.began_s = time.monotonic()

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/health", self.health),
            web.get("/v1/models", self.models),
            web.post("/v1/completions", self.complete),
            web.post("/v1/chat/completions", self.chat),
        ]

    async def health(self, _: web.Request) -> web.Response:
        late = self.behaviour.fault == "wedged"
        loading = late or time.monotonic() - self.began_s < self.behaviour.start_s
        return web.Response(status=503 if loading else 200)

    async def models(self, request: web.Request) -> web.Response:
        self.check(request)
        return web.json_response({"object": "list", "data": [{"id": self.served_name}]})

    async def complete(self, request: web.Request) -> web.Response:
        self.check(request)
        if self.behaviour.fault == "sick":
            raise web.HTTPInternalServerError(text="out of memory")
        choice = {"index": 0, "text": " one", "finish_reason": "length"}
        return web.json_response({"model": self.served_name, "choices": [choice]})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        self.check(request)
        body = await request.json()
        tokens = body.get("max_tokens") or body.get("max_completion_tokens") or TOKENS_DEFAULT
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        await answer.write(self.event({"role": "assistant", "content": ""}))
        for number in range(tokens):
            await asyncio.sleep(self.behaviour.token_s)
            await answer.write(self.event({"content": f"{number} "}))
        await answer.write(self.event({}, finish="stop"))
        usage = {"prompt_tokens": 12, "completion_tokens": tokens, "total_tokens": 12 + tokens}
        await answer.write(self.chunk([], usage=usage) + b"data: [DONE]\n\n")
        await answer.write_eof()
        return answer

    def check(self, request: web.Request) -> None:
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            raise web.HTTPUnauthorized

    def event(self, delta: dict[str, str], finish: str | None = None) -> bytes:
        return self.chunk([{"index": 0, "delta": delta, "finish_reason": finish}])

    def chunk(self, choices: list[dict[str, object]], **more: object) -> bytes:
        document = {
            "id": "chatcmpl-paced",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": self.served_name,
            "choices": choices,
            **more,
        }
        return b"data: " + json.dumps(document).encode() + b"\n\n"


def main() -> int:
    parser = argparse.ArgumentParser()
    for name in ("model", "host", "port", "served-name"):
        parser.add_argument(f"--{name}", required=True)
    given = parser.parse_args()
    behaviour = behaviour_of(Path(given.model))
    if behaviour.fault == "exit":
        print("out of memory: cannot place the tensors", file=sys.stderr)
        return EXIT_CODE
    app = web.Application()
    app.add_routes(Engine(behaviour, given.served_name).routes())
    web.run_app(app, host=given.host, port=int(given.port), print=None, shutdown_timeout=1.0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
