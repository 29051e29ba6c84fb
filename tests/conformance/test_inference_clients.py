"""Unmodified clients of the hosted API against the gateway: shapes, streams, error classes, retries."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import cerebras.cloud.sdk as cerebras
import openai
import pytest
from cerebras.cloud.sdk import AsyncCerebras
from openai import AsyncOpenAI

from gateway_process import ENDPOINT, KEY, GatewayProcess, until
from stub_engine import StubEngine, running

MESSAGES = [{"role": "user", "content": "hi"}]
TEXT = "w0 w1 w2 w3 w4 "


@dataclass
class Site:
    gateway: GatewayProcess
    engine: StubEngine

    def openai(self, key: str = KEY, retries: int = 0) -> AsyncOpenAI:
        return AsyncOpenAI(api_key=key, base_url=f"{self.gateway.url}/v1", max_retries=retries)

    def cerebras(self, key: str = KEY, retries: int = 0) -> AsyncCerebras:
        return AsyncCerebras(api_key=key, base_url=self.gateway.url, max_retries=retries)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    process = GatewayProcess(Path(tmp_path_factory.mktemp("gateway")) / "data")
    process.publish_keys()
    process.publish_routes()
    asyncio.run(process.start())
    yield process
    asyncio.run(process.stop())


@pytest.fixture
async def site(gateway: GatewayProcess) -> AsyncIterator[Site]:
    name = f"r{gateway.generation}"
    engine = gateway.engine(name)
    async with running(engine) as url:
        replica = gateway.replica(name, url, slot=0)
        await gateway.applied(gateway.publish_routes(gateway.endpoint(replica)))
        yield Site(gateway, engine)


async def test_openai_chat(site):
    async with site.openai() as client:
        answer = await client.chat.completions.create(
            model=ENDPOINT, messages=MESSAGES, temperature=0, max_tokens=5, user="u", seed=1
        )
    assert answer.choices[0].message.content == TEXT
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == ENDPOINT
    assert answer.usage.total_tokens == 12
    assert answer.usage.prompt_tokens_details.cached_tokens == 4


async def test_openai_stream(site):
    async with site.openai() as client:
        stream = await client.chat.completions.create(
            model=ENDPOINT,
            messages=MESSAGES,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TEXT
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens == 5
    assert len({chunk.id for chunk in chunks}) == 1


async def test_openai_completions_and_models(site):
    async with site.openai() as client:
        answer = await client.completions.create(model=ENDPOINT, prompt="x", max_tokens=5)
        stream = await client.completions.create(model=ENDPOINT, prompt="x", stream=True)
        streamed = [chunk.choices[0].text async for chunk in stream]
        models = await client.models.list()
        model = await client.models.retrieve(ENDPOINT)
    assert answer.choices[0].text == "".join(streamed) == TEXT
    assert [found.id for found in models.data] == [model.id] == [ENDPOINT]


async def test_cerebras_chat(site):
    async with site.cerebras() as client:
        answer = await client.chat.completions.create(
            model=ENDPOINT, messages=MESSAGES, max_completion_tokens=5, service_tier="auto"
        )
    assert answer.choices[0].message.content == TEXT
    assert answer.system_fingerprint.startswith("fp_")
    assert answer.time_info.total_time > 0
    assert answer.usage.total_tokens == 12


async def test_cerebras_stream(site):
    async with site.cerebras() as client:
        stream = await client.chat.completions.create(
            model=ENDPOINT, messages=MESSAGES, stream=True
        )
        chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TEXT
    assert chunks[-1].usage.total_tokens == 12
    assert chunks[-1].time_info.total_time > 0


async def test_cerebras_completions_and_models(site):
    async with site.cerebras() as client:
        answer = await client.completions.create(model=ENDPOINT, prompt="x", max_tokens=5)
        models = await client.models.list()
        model = await client.models.retrieve(ENDPOINT)
    assert answer.choices[0].text == TEXT
    assert [found.id for found in models.data] == [model.id] == [ENDPOINT]


def test_the_synchronous_cerebras_client_warms_its_connection(gateway):
    asyncio.run(gateway.everything_logged())
    before = gateway.log.count("/v1/tcp_warming")
    with cerebras.Cerebras(api_key=KEY, base_url=gateway.url, max_retries=0):
        pass
    # Log lines are written a moment after their answers.
    asyncio.run(until(lambda: gateway.log.count("/v1/tcp_warming") > before, gateway))
    assert gateway.log.count("/v1/tcp_warming") == before + 1


@pytest.mark.parametrize(
    ("library", "make"),
    [(openai, Site.openai), (cerebras, Site.cerebras)],
    ids=["openai", "cerebras"],
)
class TestErrors:
    async def test_a_wrong_key_is_an_authentication_error(self, site, library, make):
        async with make(site, "wb_inf_no_such") as client:
            with pytest.raises(library.AuthenticationError) as raised:
                await client.chat.completions.create(model=ENDPOINT, messages=MESSAGES)
        assert raised.value.body["code"] == "wrong_api_key"

    async def test_an_unknown_model_is_not_found(self, site, library, make):
        async with make(site) as client:
            with pytest.raises(library.NotFoundError) as raised:
                await client.chat.completions.create(model="nobody", messages=MESSAGES)
        assert raised.value.body["code"] == "model_not_found"

    async def test_an_unknown_property_is_a_bad_request(self, site, library, make):
        async with make(site) as client:
            with pytest.raises(library.BadRequestError) as raised:
                await client.chat.completions.create(
                    model=ENDPOINT, messages=MESSAGES, extra_body={"top_k": 3}
                )
        assert raised.value.body["message"] == "body.top_k: property 'body.top_k' is unsupported"

    async def test_a_busy_endpoint_is_a_rate_limit(self, site, library, make):
        site.engine.mode = "busy"
        async with make(site) as client:
            with pytest.raises(library.RateLimitError):
                await client.chat.completions.create(model=ENDPOINT, messages=MESSAGES)

    async def test_no_replica_is_a_server_error_with_its_status(self, site, library, make):
        site.engine.mode = "500"
        async with make(site) as client:
            with pytest.raises(library.InternalServerError) as raised:
                await client.chat.completions.create(model=ENDPOINT, messages=MESSAGES)
        assert raised.value.status_code == 503

    async def test_a_stream_that_breaks_raises_in_the_caller(self, site, library, make):
        site.engine.mode, site.engine.pause_s = "cut", 0.02
        seen = []
        async with make(site) as client:
            stream = await client.chat.completions.create(
                model=ENDPOINT, messages=MESSAGES, stream=True
            )
            with pytest.raises(library.APIError, match="broke off"):
                seen.extend([chunk async for chunk in stream])

    async def test_a_caller_s_retry_succeeds_once_a_replica_is_back(self, site, library, make):
        site.engine.mode = "500"

        async def recover() -> None:
            await until(lambda: bool(site.engine.bodies))
            site.engine.mode = "ok"

        recovering = asyncio.create_task(recover())
        async with make(site, retries=2) as client:
            answer = await client.chat.completions.create(model=ENDPOINT, messages=MESSAGES)
        await recovering
        assert answer.choices[0].message.content == TEXT
        assert len(site.engine.bodies) >= 2
