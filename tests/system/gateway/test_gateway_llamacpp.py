"""The gateway before the embedded engine itself: real tokens, real refusals, slots freed, versions switched."""

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from blake3 import blake3

import weighbridge
from gateway_process import ENDPOINT, KEY, GatewayProcess, until
from weighbridge.cli.demo.process import free_ports
from weighbridge.engines.base import EngineLaunch, EngineSettings, ProbeOutcome, served_name
from weighbridge.routing.model import ReplicaRoute
from weighbridge.routing.tokens import replica_token

llamacpp = pytest.importorskip("weighbridge.engines.llamacpp")

pytestmark = pytest.mark.system

MODELS = Path(__file__).parents[2] / "models"
ENGINE_START_S = 60.0
END_TOKEN = str(
    json.loads((MODELS / "llama-v1" / "generation_config.json").read_text())["eos_token_id"]
)
MESSAGES = [{"role": "user", "content": "What is a weighbridge?"}]


def make_version(model: str, target: Path) -> str:
    """A version directory as the weight store lays it out; the digest of its manifest."""
    target.mkdir()
    files = []
    for source in sorted((MODELS / model).iterdir()):
        if source.name == "reference.json":
            continue
        shutil.copy(source, target)
        content = source.read_bytes()
        digest = blake3(content).hexdigest()
        files.append({"path": source.name, "size": len(content), "digest": digest})
    manifest = json.dumps({"files": files}).encode()
    (target / "weighbridge-manifest.json").write_bytes(manifest)
    return blake3(manifest).hexdigest()


@dataclass
class Replica:
    launch: EngineLaunch
    url: str
    process: subprocess.Popen
    route: ReplicaRoute


@contextlib.contextmanager
def replica(gateway: GatewayProcess, engine: object, model: str, version: int) -> Iterator[Replica]:
    folder = gateway.root / f"version-{version}"
    digest = make_version(model, folder)
    replica_id = f"rep{version}"
    launch = EngineLaunch(
        replica_id=replica_id,
        digest=digest,
        served_name=served_name(replica_id, digest),
        token=replica_token(gateway.pepper, replica_id),
        settings=EngineSettings(slots=2),
        cache_dir=str(gateway.root / "cache"),
    )
    command = engine.command(launch)
    (port,) = free_ports(1)
    places = {"{model}": str(folder), "{host}": "127.0.0.1", "{port}": str(port)}
    source = str(Path(weighbridge.__file__).parents[1])
    environment = {**os.environ, **command.env, **command.secrets, "PYTHONPATH": source}
    process = subprocess.Popen([places.get(word, word) for word in command.argv], env=environment)
    url = f"http://127.0.0.1:{port}"
    route = ReplicaRoute(
        replica_id, version, url, "i", launch.served_name, digest, version, f"fp_{digest[:20]}"
    )
    try:
        yield Replica(launch, url, process, route)
    finally:
        process.terminate()
        process.wait()


@dataclass
class Site:
    gateway: GatewayProcess
    session: aiohttp.ClientSession
    engine: object
    replicas: list[Replica]

    async def chat(self, **members: object) -> tuple[int, str]:
        body = {"model": ENDPOINT, "messages": MESSAGES, "temperature": 0, **members}
        url = f"{self.gateway.url}/v1/chat/completions"
        async with self.session.post(url, json=body) as answer:
            return answer.status, await answer.text()

    async def route(self, *numbers: int) -> None:
        routes = [self.replicas[number].route for number in numbers]
        endpoint = self.gateway.endpoint(*routes, tools=True)
        await self.gateway.applied(self.gateway.publish_routes(endpoint))

    async def running(self) -> int:
        load = await self.engine.load(self.replicas[0].url, self.replicas[0].launch)
        return load.running


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    gateway = GatewayProcess(tmp_path / "data")
    gateway.publish_keys()
    gateway.publish_routes()
    headers = {"authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession() as own, aiohttp.ClientSession(headers=headers) as session:
        engine = llamacpp.LlamaCpp(own)
        with (
            replica(gateway, engine, "llama-v1", 1) as first,
            replica(gateway, engine, "llama-v2", 2) as second,
        ):
            await gateway.start()
            try:
                for made in (first, second):
                    await ready(engine, made)
                yield Site(gateway, session, engine, [first, second])
            finally:
                await gateway.stop()


async def ready(engine: object, made: Replica) -> None:
    for _ in range(int(ENGINE_START_S / 0.1)):
        result = await engine.probe(made.url, made.launch, generate=True)
        if result.outcome is ProbeOutcome.READY:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(result)


def text_of(stream: str) -> str:
    parts = [part.removeprefix("data: ") for part in stream.strip().split("\n\n")]
    assert parts.pop() == "[DONE]"
    deltas = [json.loads(part)["choices"][0]["delta"] for part in parts]
    return "".join(delta.get("content", "") for delta in deltas)


async def test_whole_and_streamed_answers_say_the_same(site):
    await site.route(0)
    status, whole = await site.chat(max_tokens=20)
    assert status == 200
    answer = json.loads(whole)
    assert answer["usage"]["completion_tokens"] > 0
    assert answer["system_fingerprint"] == site.replicas[0].route.fingerprint
    _, stream = await site.chat(max_tokens=20, stream=True)
    assert text_of(stream) == answer["choices"][0]["message"]["content"]


async def test_logprobs_come_with_as_many_others_as_asked(site):
    await site.route(0)
    for top in (0, 2):
        _, whole = await site.chat(max_tokens=2, logprobs=True, top_logprobs=top)
        entries = json.loads(whole)["choices"][0]["logprobs"]["content"]
        assert [len(entry["top_logprobs"]) for entry in entries] == [top, top]
    _, stream = await site.chat(max_tokens=2, logprobs=True, stream=True)
    assert stream.count('"logprob":') == 2


async def test_a_schema_is_kept_and_a_tool_is_called(site):
    await site.route(0)
    schema = {
        "type": "object",
        "properties": {"axles": {"type": "integer"}},
        "required": ["axles"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "t", "strict": True, "schema": schema}}
    status, whole = await site.chat(max_tokens=60, response_format=form)
    assert status == 200
    assert json.loads(whole)["choices"][0]["message"]["content"].startswith("{")
    tool = {"type": "function", "function": {"name": "weigh", "parameters": schema}}
    status, stream = await site.chat(
        max_tokens=60, tools=[tool], tool_choice="required", stream=True
    )
    assert status == 200
    assert '"name":"weigh"' in stream
    assert '"error"' not in stream


async def test_a_prompt_longer_than_the_context_is_refused_in_the_api_s_words(site):
    await site.route(0)
    status, text = await site.chat(messages=[{"role": "user", "content": "weigh " * 9000}])
    assert status == 400
    assert json.loads(text)["message"].startswith("Please reduce the length of the messages")


async def test_a_caller_that_leaves_frees_the_slot_within_two_seconds(site):
    await site.route(0)
    leaving = [
        asyncio.create_task(site.chat(max_tokens=-1, stream=True, logit_bias={END_TOKEN: -100}))
        for _ in range(2)
    ]
    await until(lambda: site.gateway.view.in_flight(1) == 2)
    while await site.running() < 2:
        assert not any(task.done() for task in leaving)
    for task in leaving:
        task.cancel()
    await until(lambda: site.gateway.view.in_flight(1) == 0, limit_s=1.0)
    for _ in range(50):
        if not await site.running():
            break
        await asyncio.sleep(0.02)
    assert await site.running() == 0


async def test_a_killed_engine_fails_over_before_the_first_byte(site):
    await site.route(0, 1)
    site.replicas[0].process.kill()
    site.replicas[0].process.wait()
    answers = [await site.chat(max_tokens=3, stream=number % 2 == 0) for number in range(6)]
    assert {status for status, _ in answers} == {200}


async def test_versions_switch_under_streams_and_none_is_mixed_or_cut(site):
    await site.route(0)
    faults: list[str] = []
    seen: set[str] = set()
    stop = asyncio.Event()

    async def caller() -> None:
        while not stop.is_set():
            status, text = await site.chat(max_tokens=12, stream=True)
            parts = text.strip().split("\n\n")
            if status != 200 or parts[-1] != "data: [DONE]":
                faults.append(text[-300:])
                continue
            prints = {
                json.loads(part.removeprefix("data: "))["system_fingerprint"] for part in parts[:-1]
            }
            seen.update(prints)
            if len(prints) != 1:
                faults.append(f"mixed {prints}")

    async with asyncio.TaskGroup() as tasks:
        for _ in range(16):
            tasks.create_task(caller())
        await until(lambda: bool(seen))
        await site.route(0, 1)
        await until(lambda: len(seen) == 2)
        await site.route(1)
        await until(lambda: site.gateway.view.in_flight(1) == 0)
        site.replicas[0].process.kill()
        await asyncio.sleep(0.3)
        stop.set()
    assert faults == []
    assert seen == {made.route.fingerprint for made in site.replicas}
