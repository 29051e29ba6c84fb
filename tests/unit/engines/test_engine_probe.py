"""Probing against a small server that answers as vLLM 0.32 does, or in ways that may go wrong."""

import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from weighbridge.engines import probe as probing
from weighbridge.engines.base import (
    Engine,
    EngineLaunch,
    EngineLoad,
    EngineSettings,
    ProbeOutcome,
)
from weighbridge.engines.command import CommandEngine
from weighbridge.engines.llamacpp import LlamaCpp
from weighbridge.engines.probe import parse_gauges
from weighbridge.engines.vllm import Vllm

LAUNCH = EngineLaunch(
    replica_id="rep1",
    digest="ab" * 32,
    served_name="rep1.abab",
    token="right",
    settings=EngineSettings(health_path="/healthz"),
    cache_dir="",
)
METRICS = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="rep1.abab"} 2.0
vllm:num_requests_running{engine="1",model_name="rep1.abab"} 1.0
vllm:num_requests_waiting{engine="0",model_name="rep1.abab"} 4.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 9.0
llamacpp:requests_processing 5
llamacpp:requests_deferred 6
"""


@dataclass
class FakeEngine:
    """What the server answers; tests change it before they ask."""

    health: int = 200
    models: list = field(default_factory=lambda: [{"id": "rep1.abab", "object": "model"}])
    answers_as: str = "rep1.abab"
    completion: int = 200
    body: str | None = None
    metrics: str = METRICS
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_get("/healthz", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/completions", self._completions)
        app.router.add_get("/metrics", self._metrics)
        return app

    async def _health(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        return web.Response(status=self.health)

    async def _models(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        if request.headers.get("Authorization") != "Bearer right":
            return web.json_response({"error": "Unauthorized"}, status=401)
        if self.body is not None:
            return web.Response(text=self.body)
        return web.json_response({"object": "list", "data": self.models})

    async def _completions(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        assert (await request.json())["max_tokens"] == 1
        answer = {
            "object": "text_completion",
            "model": self.answers_as,
            "choices": [{"index": 0, "text": " a", "finish_reason": "length"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }
        return web.json_response(answer, status=self.completion)

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(text=self.metrics)


@pytest.fixture
async def fake() -> AsyncIterator[FakeEngine]:
    engine = FakeEngine()
    async with TestServer(engine.app()) as server:
        engine.url = str(server.make_url("")).rstrip("/")
        yield engine


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


@pytest.fixture
def vllm(session: aiohttp.ClientSession) -> Engine:
    return Vllm(session)


async def test_a_healthy_engine_with_our_name_is_ready(fake: FakeEngine, vllm: Engine):
    result = await vllm.probe(fake.url, LAUNCH, generate=False)
    assert result.outcome is ProbeOutcome.READY
    assert fake.asked == ["/health", "/v1/models"]


async def test_a_generating_probe_asks_for_one_token(fake: FakeEngine, vllm: Engine):
    result = await vllm.probe(fake.url, LAUNCH, generate=True)
    assert result.outcome is ProbeOutcome.READY
    assert fake.asked == ["/health", "/v1/models", "/v1/completions"]


@pytest.mark.parametrize(
    ("state", "outcome"),
    [
        ({"health": 500}, ProbeOutcome.UNHEALTHY),
        ({"health": 503}, ProbeOutcome.UNHEALTHY),
        ({"models": []}, ProbeOutcome.WRONG_IDENTITY),
        ({"models": [{"id": "rep2.cdcd"}]}, ProbeOutcome.WRONG_IDENTITY),
        ({"models": [{"id": "rep1.abab"}, {"id": "lora"}]}, ProbeOutcome.WRONG_IDENTITY),
        ({"models": ["rep1.abab"]}, ProbeOutcome.WRONG_IDENTITY),
        ({"body": "not json"}, ProbeOutcome.UNHEALTHY),
        ({"body": "[" * 100_000}, ProbeOutcome.UNHEALTHY),
        ({"answers_as": "rep2.cdcd"}, ProbeOutcome.WRONG_IDENTITY),
        ({"completion": 500}, ProbeOutcome.UNHEALTHY),
    ],
)
async def test_an_engine_is_not_ready_when(fake: FakeEngine, vllm: Engine, state, outcome):
    for name, value in state.items():
        setattr(fake, name, value)
    result = await vllm.probe(fake.url, LAUNCH, generate=True)
    assert result.outcome is outcome
    assert result.detail


async def test_an_engine_that_refuses_our_token_is_another(fake: FakeEngine, vllm: Engine):
    result = await vllm.probe(fake.url, replace(LAUNCH, token="wrong"), generate=False)
    assert result.outcome is ProbeOutcome.WRONG_IDENTITY
    assert "wrong" not in result.detail


async def test_an_endless_answer_is_cut_off(fake: FakeEngine, vllm: Engine):
    fake.body = " " * (probing.BODY_BYTES_MAX + 1)
    result = await vllm.probe(fake.url, LAUNCH, generate=False)
    assert result.outcome is ProbeOutcome.UNHEALTHY
    assert "bytes" in result.detail


async def test_nobody_listening_is_a_start_that_is_not_over(session: aiohttp.ClientSession):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    for engine in (Vllm(session), LlamaCpp(session), CommandEngine(session)):
        result = await engine.probe(f"http://127.0.0.1:{port}", LAUNCH, generate=True)
        assert result.outcome is ProbeOutcome.STARTING


async def test_a_silent_engine_is_unhealthy(session: aiohttp.ClientSession, monkeypatch):
    monkeypatch.setattr(probing, "HEALTH_TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        result = await Vllm(session).probe(url, LAUNCH, generate=False)
        assert await Vllm(session).load(url, LAUNCH) is None
    assert result.outcome is ProbeOutcome.UNHEALTHY


async def test_llama_cpp_says_503_while_it_loads(fake: FakeEngine, session: aiohttp.ClientSession):
    fake.health = 503
    result = await LlamaCpp(session).probe(fake.url, LAUNCH, generate=False)
    assert result.outcome is ProbeOutcome.STARTING


async def test_a_command_is_asked_at_its_own_health_path(fake: FakeEngine, session):
    result = await CommandEngine(session).probe(fake.url, LAUNCH, generate=False)
    assert result.outcome is ProbeOutcome.READY
    assert fake.asked[0] == "/healthz"


async def test_load_is_summed_over_an_engines_cores(fake: FakeEngine, session):
    assert await Vllm(session).load(fake.url, LAUNCH) == EngineLoad(running=3, waiting=4)
    assert await LlamaCpp(session).load(fake.url, LAUNCH) == EngineLoad(running=5, waiting=6)
    assert await CommandEngine(session).load(fake.url, LAUNCH) is None


@pytest.mark.parametrize("metrics", ["", "vllm:num_requests_running 1\n", "\0", "vllm:x{ 1"])
async def test_metrics_without_the_load_say_nothing(fake: FakeEngine, vllm: Engine, metrics: str):
    fake.metrics = metrics
    assert await vllm.load(fake.url, LAUNCH) is None


def test_gauges_are_read_with_labels_that_hold_braces():
    text = 'a{x="}{"} 1\na{x="y"} 2.5 1700000000\nab 9\na\na{\n'
    assert parse_gauges(text, ("a", "b")) == {"a": 3.5}
