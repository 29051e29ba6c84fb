"""One gateway process for the tests of a module; fresh stub engines behind its endpoint for each test."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import aiohttp
import pytest

from gateway_process import ENDPOINT, KEY, GatewayProcess
from stub_engine import StubEngine, running


@dataclass
class Site:
    gateway: GatewayProcess
    session: aiohttp.ClientSession
    engines: list[StubEngine]
    urls: list[str]
    name: str
    log_start: int

    @property
    def log(self) -> str:
        """What the gateway has logged since the test began."""
        return self.gateway.log[self.log_start :]

    async def post(self, body: object, path: str = "/v1/chat/completions", **options: object):
        async with self.session.post(self.gateway.url + path, json=body, **options) as answer:
            return answer, await answer.text()

    async def chat(self, **members: object):
        messages = [{"role": "user", "content": "hi"}]
        return await self.post({"model": ENDPOINT, "messages": messages, **members})

    async def route(self, *numbers: int, **changes: object) -> None:
        """Publish the endpoint with these engines and wait until the gateway routes by it."""
        replicas = [
            self.gateway.replica(f"{self.name}{number}", self.urls[number], slot=number)
            for number in numbers
        ]
        generation = self.gateway.publish_routes(
            self.gateway.endpoint(*replicas, **changes),
            self.gateway.endpoint(*replicas, endpoint_id="other-tiny", org_id="org_two"),
            self.gateway.endpoint(endpoint_id="never-tiny", deployed=False),
        )
        await self.gateway.applied(generation)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    process = GatewayProcess(tmp_path_factory.mktemp("gateway") / "data")
    process.publish_keys()
    process.publish_routes()
    asyncio.run(process.start())
    yield process
    asyncio.run(process.stop())


@pytest.fixture
async def site(gateway: GatewayProcess) -> AsyncIterator[Site]:
    # Replicas get names of their own, so that no test meets one that another has seen fail.
    name = f"t{gateway.generation}r"
    engines = [gateway.engine(f"{name}{number}") for number in range(3)]
    async with (
        running(engines[0]) as url0,
        running(engines[1]) as url1,
        running(engines[2]) as url2,
        aiohttp.ClientSession(headers={"authorization": f"Bearer {KEY}"}) as session,
    ):
        await gateway.everything_logged()
        made = Site(gateway, session, engines, [url0, url1, url2], name, len(gateway.log))
        await made.route(0, 1)
        yield made
