"""The embedded engine as a real process: the tokens it answers, who it says it is, how it ends."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import pytest
from blake3 import blake3
from demo_versions import WEIGH_TOOL, list_files_anew, make_version, reference

import weighbridge
from weighbridge.cli.demo.process import free_ports
from weighbridge.engines.base import EngineLaunch, EngineLoad, EngineSettings, ProbeOutcome
from weighbridge.engines.llamacpp import LlamaCpp

pytestmark = pytest.mark.system

START_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Replica:
    engine: LlamaCpp
    session: aiohttp.ClientSession
    launch: EngineLaunch
    url: str
    process: subprocess.Popen

    async def post(self, path: str, body: dict, token: str | None = None) -> tuple[int, dict]:
        headers = {"Authorization": f"Bearer {token or self.launch.token}"}
        async with self.session.post(self.url + path, json=body, headers=headers) as answer:
            return answer.status, await answer.json()

    async def chat(self, question: str, **settings: object) -> dict:
        messages = [{"role": "user", "content": question}]
        body = {"model": self.launch.served_name, "messages": messages, **settings}
        status, answer = await self.post("/v1/chat/completions", body)
        assert status == 200, answer
        return answer

    async def ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            result = await self.engine.probe(self.url, self.launch, generate=True)
            if result.outcome is ProbeOutcome.READY:
                return
            assert result.outcome is ProbeOutcome.STARTING, result
            assert self.process.poll() is None, "the engine ended"
            assert time.monotonic() < deadline, "the engine did not become ready"
            await asyncio.sleep(0.02)

    async def load_becomes(self, running: int) -> None:
        deadline = time.monotonic() + 10
        while await self.engine.load(self.url, self.launch) != EngineLoad(running, 0):
            assert time.monotonic() < deadline, f"the engine never ran {running} requests"
            await asyncio.sleep(0.02)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


Start = Callable[..., Replica]


@pytest.fixture
def start(session: aiohttp.ClientSession, tmp_path: Path) -> Iterator[Start]:
    """Start replicas the way a node does; all of them end with the test."""
    with contextlib.ExitStack() as stack:

        def start_one(
            model: str = "llama-v1",
            *,
            digest: str | None = None,
            damage: Callable[[Path], object] = lambda folder: None,
            **settings: object,
        ) -> Replica:
            folder = tmp_path / model
            found = make_version(model, folder) if not folder.exists() else ""
            found = found or blake3((folder / "weighbridge-manifest.json").read_bytes()).hexdigest()
            damage(folder)
            launch = EngineLaunch(
                replica_id="r1",
                digest=digest or found,
                served_name=f"r1.{found[:32]}",
                token="a-token-of-this-test",
                settings=EngineSettings(**settings),
                cache_dir=str(tmp_path / "cache"),
            )
            engine = LlamaCpp(session)
            process, url = _start(engine, launch, folder)
            stack.callback(_end, process)
            return Replica(engine, session, launch, url, process)

        yield start_one


def _start(engine: LlamaCpp, launch: EngineLaunch, folder: Path) -> tuple[subprocess.Popen, str]:
    (port,) = free_ports(1)
    command = engine.command(launch)

    def fill(word: str) -> str:
        word = word.replace("{model}", str(folder)).replace("{host}", "127.0.0.1")
        return word.replace("{port}", str(port))

    source = str(Path(weighbridge.__file__).parents[1])
    process = subprocess.Popen(
        [fill(word) for word in command.argv],
        env={**os.environ, "PYTHONPATH": source, **command.env, **command.secrets},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    return process, f"http://127.0.0.1:{port}"


def _end(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()
    process.stderr.close()


# As stored where arithmetic is exact or answers are clear; bf16 rounds activations too, which turns
# some of the near-ties of random weights, so those are held against float32.
@pytest.mark.parametrize(
    ("model", "dtype"),
    [
        ("llama-v1", "auto"),
        ("llama-v2", "auto"),
        ("llama-v2", "float32"),
        ("mistral-tiny", "auto"),
        ("llama3-tiny", "float32"),
        ("qwen2-tiny", "float32"),
        ("qwen3-tiny", "float32"),
    ],
)
async def test_greedy_tokens_are_those_of_the_reference(start: Start, model: str, dtype: str):
    replica = start(model, dtype=dtype)
    await replica.ready()
    answers = reference(model)["answers"]
    assert len(answers) >= 6
    for answer in answers:
        body = {
            "prompt": answer["prompt_ids"],
            "n_predict": len(answer["ids"]),
            "temperature": 0,
            "return_tokens": True,
        }
        _, found = await replica.post("/completion", body)
        assert found["tokens"] == answer["ids"], answer["messages"]


@pytest.mark.parametrize("model", ["llama-v1", "mistral-tiny", "llama3-tiny", "qwen3-tiny"])
async def test_text_is_split_into_the_tokens_of_the_reference(start: Start, model: str):
    replica = start(model)
    await replica.ready()
    for text, ids in reference(model)["tokens"].items():
        body = {"content": text, "add_special": False, "parse_special": True}
        _, found = await replica.post("/tokenize", body)
        assert found["tokens"] == ids, text


@pytest.mark.parametrize("model", ["llama-v1", "llama-v2", "llama3-tiny"])
async def test_a_chat_is_rendered_and_answered_as_by_the_reference(start: Start, model: str):
    replica = start(model, dtype="float32")
    await replica.ready()
    for expected in reference(model)["answers"]:
        body = {"messages": expected["messages"], "max_tokens": len(expected["ids"])}
        _, answer = await replica.post("/v1/chat/completions", body)
        assert answer["usage"]["prompt_tokens"] == len(expected["prompt_ids"])
        assert answer["model"] == replica.launch.served_name
        if model != "llama3-tiny":  # whose random tokens are no valid text
            assert answer["choices"][0]["message"]["content"] == expected["text"]
            assert answer["choices"][0]["finish_reason"] == expected["finish_reason"]


async def test_a_stream_ends_with_its_usage(start: Start):
    replica = start()
    await replica.ready()
    body = {
        "messages": [{"role": "user", "content": "Which version are you?"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    headers = {"Authorization": f"Bearer {replica.launch.token}"}
    url = f"{replica.url}/v1/chat/completions"
    async with replica.session.post(url, json=body, headers=headers) as answer:
        lines = (await answer.text()).split("\n\n")
    events = [line.removeprefix("data: ") for line in lines if line.strip()]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert {chunk["model"] for chunk in chunks} == {replica.launch.served_name}
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    text = "".join(delta.get("content") or "" for delta in deltas)
    assert text == "I am version one of the demo model."
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 10


async def test_a_json_schema_is_kept(start: Start):
    replica = start()
    await replica.ready()
    properties = {"truck": {"type": "integer"}, "load": {"enum": ["timber", "sand"]}}
    schema = {"type": "object", "properties": properties, "required": ["truck", "load"]}
    schema["additionalProperties"] = False
    answer = await replica.chat(
        "Describe truck 7 as JSON.",
        response_format={"type": "json_schema", "json_schema": {"name": "t", "schema": schema}},
    )
    found = json.loads(answer["choices"][0]["message"]["content"])
    assert found["truck"] == 7
    assert found["load"] in {"timber", "sand"}


async def test_a_tool_call_comes_back_as_one(start: Start):
    replica = start()
    await replica.ready()
    assert replica.engine.capabilities(replica.launch.settings).tools
    answer = await replica.chat("How heavy is truck 7?", tools=[WEIGH_TOOL])
    [call] = answer["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "weigh_truck"
    assert json.loads(call["function"]["arguments"]) == {"truck": 7}
    assert answer["choices"][0]["finish_reason"] == "tool_calls"


async def test_log_probabilities_come_with_the_tokens(start: Start):
    replica = start()
    await replica.ready()
    answer = await replica.chat("Hello!", logprobs=True, top_logprobs=2, max_tokens=3)
    logprobs = answer["choices"][0]["logprobs"]["content"]
    assert [entry["token"] for entry in logprobs] == ["Hello", "!", " Ask"]
    assert all(len(entry["top_logprobs"]) == 2 for entry in logprobs)


async def test_more_requests_than_slots_all_get_their_own_answer(start: Start):
    replica = start(slots=2)
    await replica.ready()
    expected = {
        answer["messages"][0]["content"]: answer["text"]
        for answer in reference("llama-v1")["answers"]
        if len(answer["messages"]) == 1
    }
    assert len(expected) > 10
    answers = await asyncio.gather(*(replica.chat(question) for question in expected))
    texts = [answer["choices"][0]["message"]["content"] for answer in answers]
    assert dict(zip(expected, texts, strict=True)) == expected


@pytest.mark.parametrize(("model", "temperature"), [("llama-v1", 0.0), ("llama-hot", 0.25)])
async def test_a_request_that_does_not_say_is_sampled_as_the_model_says(
    start: Start, tmp_path: Path, model: str, temperature: float
):
    make_version("llama-v1", tmp_path / model)
    if model == "llama-hot":
        config = {"eos_token_id": 0, "do_sample": True, "temperature": temperature}
        (tmp_path / model / "generation_config.json").write_text(json.dumps(config))
        list_files_anew(tmp_path / model)
    replica = start(model)
    await replica.ready()
    headers = {"Authorization": f"Bearer {replica.launch.token}"}
    async with replica.session.get(f"{replica.url}/props", headers=headers) as answer:
        defaults = (await answer.json())["default_generation_settings"]["params"]
    assert defaults["temperature"] == temperature
    assert (defaults["top_k"], defaults["top_p"], defaults["min_p"]) == (0, 1.0, 0.0)


async def test_nothing_but_health_answers_without_the_token(start: Start):
    replica = start()
    await replica.ready()
    for path in ("/v1/models", "/metrics", "/slots", "/props"):
        async with replica.session.get(replica.url + path) as answer:
            assert answer.status == 401, path
    for path in ("/v1/chat/completions", "/v1/completions", "/completion", "/tokenize"):
        assert (await replica.post(path, {}, token="another"))[0] == 401, path


async def test_a_replica_is_not_ready_under_another_name_or_token(start: Start):
    replica = start()
    await replica.ready()
    for changes in ({"served_name": "r2.0000"}, {"token": "another"}):
        other = replace(replica.launch, **changes)
        result = await replica.engine.probe(replica.url, other, generate=False)
        assert result.outcome is ProbeOutcome.WRONG_IDENTITY, changes
        assert "another" not in result.detail


async def test_a_client_that_leaves_frees_its_slot(start: Start):
    # A context beyond what the model was trained for keeps one answer going for long enough.
    replica = start(slots=1, context_tokens=32768)
    await replica.ready()
    body = {"prompt": "1, 2, 3", "ignore_eos": True, "max_tokens": 30000, "stream": True}
    headers = {"Authorization": f"Bearer {replica.launch.token}"}
    url = f"{replica.url}/v1/completions"
    async with replica.session.post(url, json=body, headers=headers) as answer:
        await answer.content.readline()
        await replica.load_becomes(1)
    await replica.load_becomes(0)
    assert (await replica.chat("Hello!"))["choices"][0]["finish_reason"] == "stop"


async def test_sigterm_ends_it_at_once_even_with_a_stream_open(start: Start):
    replica = start(context_tokens=32768)
    await replica.ready()
    body = {"prompt": "1, 2, 3", "ignore_eos": True, "max_tokens": 30000, "stream": True}
    headers = {"Authorization": f"Bearer {replica.launch.token}"}
    url = f"{replica.url}/v1/completions"
    async with replica.session.post(url, json=body, headers=headers) as answer:
        await answer.content.readline()
        replica.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(replica.process.wait, 5) == 0


async def test_the_token_is_in_no_argument_and_no_output(start: Start):
    replica = start()
    await replica.ready()
    assert replica.launch.token not in " ".join(replica.process.args)
    replica.process.terminate()
    assert replica.launch.token.encode() not in replica.process.stderr.read()


async def test_two_replicas_of_one_version_convert_it_once(start: Start, tmp_path: Path):
    replicas = [start(), start()]
    for replica in replicas:
        await replica.ready()
    assert len(list((tmp_path / "cache" / "gguf").glob("*.gguf"))) == 1
    assert not list((tmp_path / "cache" / "gguf").glob("*.partial"))


def _other_architecture(folder: Path) -> None:
    """The manifest is right then, but nobody said that llama.cpp can serve this architecture."""
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["GptOssForCausalLM"]
    text = json.dumps(config, indent=2)
    (folder / "config.json").write_text(text)


@pytest.mark.parametrize(
    ("digest", "damage", "says"),
    [
        ("0" * 64, lambda folder: None, "holds version"),
        (None, lambda folder: os.truncate(folder / "model.safetensors", 100), "has 100 bytes"),
        (None, lambda folder: (folder / "tokenizer.json").unlink(), "cannot be read"),
        (None, lambda folder: (folder / "weighbridge-manifest.json").unlink(), "cannot be read"),
    ],
)
def test_a_directory_that_is_not_the_version_is_refused(start: Start, digest, damage, says):
    replica = start(digest=digest, damage=damage)
    assert replica.process.wait(START_TIMEOUT_S) == 2
    [line] = replica.process.stderr.read().decode().splitlines()
    assert says in line


def test_a_file_llama_cpp_cannot_load_ends_it_and_is_named(start: Start, tmp_path: Path):
    digest = make_version("llama-v1", tmp_path / "llama-v1")
    (tmp_path / "cache" / "gguf").mkdir(parents=True)
    (tmp_path / "cache" / "gguf" / f"{digest}.v1.auto.gguf").write_bytes(b"damaged")
    replica = start()
    assert replica.process.wait(START_TIMEOUT_S) == 2
    assert f"{digest}.v1.auto.gguf" in replica.process.stderr.read().decode().splitlines()[-1]


def test_another_architecture_is_refused_with_what_is_supported(start: Start, tmp_path: Path):
    make_version("llama-v1", tmp_path / "llama-v1")
    _other_architecture(tmp_path / "llama-v1")
    digest = list_files_anew(tmp_path / "llama-v1")
    replica = start(digest=digest)
    assert replica.process.wait(START_TIMEOUT_S) == 2
    [line] = replica.process.stderr.read().decode().splitlines()
    assert "GptOssForCausalLM" in line
    assert "Qwen3ForCausalLM" in line
