"""Waiting for a busy endpoint on the wire: its end, callers that leave meanwhile, and what all of it is charged."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from gateway_process import ENDPOINT, KEY, ORG, GatewayProcess, until
from weighbridge.routing.limits import UsageLimits
from weighbridge.usage.lines import read_lines
from weighbridge.usage.model import UsageEvent
from weighbridge.usage.spool import spools_in

BODY = {"model": ENDPOINT, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 10}
WAIT_S = 1.0


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """Instead of the folder's: nobody waits long here, and few at once."""
    process = GatewayProcess(
        tmp_path_factory.mktemp("gateway") / "data",
        arguments=("--queue-wait-s", str(WAIT_S), "--queue-requests-max", "2"),
    )
    process.publish_keys()
    process.publish_routes()
    asyncio.run(process.start())
    yield process
    asyncio.run(process.stop())


@pytest.fixture
async def busy(site) -> None:
    """The endpoint has one place."""
    await site.route(0, in_flight_max=1)
    site.engines[0].mode = "silent"


async def limit_key(site, name: str, **limits: int) -> None:
    """The usual key gets these limits, and an id of the test's own."""
    entry = msgspec.structs.replace(
        site.gateway.key(KEY, ORG), key_id=name, limits=UsageLimits(**limits)
    )
    generation = site.gateway.publish_keys(entry)
    await until(lambda: (site.gateway.view.keys_acked() or 0) >= generation, site.gateway)


def events(site, key_id: str) -> list[UsageEvent]:
    found = []
    for path in spools_in(site.gateway.paths.usage):
        found += read_lines(path.read_bytes()).events
    return [one for one in found if one.key_id == key_id]


def ended(site) -> list[int]:
    """Statuses of this test's requests so far, as logged."""
    lines = (line for line in site.log.splitlines() if '"event":"request"' in line)
    return [json.loads(line)["status"] for line in lines]


@asynccontextmanager
async def raw_request(site, **members: object) -> AsyncIterator[asyncio.StreamReader]:
    """A request that has begun, on a connection that is closed when the block ends.

    It is sent together with one before it that is answered from memory: after that answer it is no more on its way.
    """
    body = json.dumps({**BODY, **members}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", site.gateway.port)
    head = (
        "GET /v1/tcp_warming HTTP/1.1\r\nhost: x\r\n\r\n"
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {KEY}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    try:
        await reader.readuntil(b'{"status":"ok"}')
        yield reader
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.usefixtures("busy")
async def test_a_wait_has_an_end_and_gives_back_what_was_charged(site):
    await limit_key(site, "key_late", requests_day=10, concurrency=2)
    first = asyncio.create_task(site.post(BODY))
    await until(lambda: site.engines[0].open_now == 1, site.gateway)
    refused, text = await site.post(BODY)
    assert (refused.status, json.loads(text)["code"]) == (429, "queue_exceeded")
    assert refused.headers["retry-after"] == "1"
    assert refused.headers["x-ratelimit-limit-requests-day"] == "10"
    site.engines[0].released.set()
    assert (await first)[0].status == 200
    await until(lambda: len(events(site, "key_late")) == 2, site.gateway)
    late, served = events(site, "key_late")
    assert (late.status, late.version, served.status) == (429, 0, 200)
    assert WAIT_S <= late.queue_s < WAIT_S + 5
    assert served.queue_s == 0
    answer, _ = await site.post(BODY)
    # The refused one cost nothing: this is the second of ten.
    assert answer.headers["x-ratelimit-remaining-requests-day"] == "8"


@pytest.mark.usefixtures("busy")
async def test_who_leaves_while_waiting_frees_the_line_and_its_concurrency(site):
    await limit_key(site, "key_left", concurrency=2)
    first = asyncio.create_task(site.post(BODY))
    await until(lambda: site.engines[0].open_now == 1, site.gateway)
    async with raw_request(site):
        pass
    await until(lambda: 499 in ended(site), site.gateway)
    second = asyncio.create_task(site.post(BODY))
    site.engines[0].released.set()
    assert [(await task)[0].status for task in (first, second)] == [200, 200]
    assert len(site.engines[0].bodies) == 2
    await until(lambda: 499 in [one.status for one in events(site, "key_left")], site.gateway)
    (left,) = (one for one in events(site, "key_left") if one.status == 499)
    assert (left.version, left.completion_tokens) == (0, 0)
    assert left.queue_s > 0


@pytest.mark.usefixtures("busy")
async def test_a_full_line_refuses_the_newest_at_once(site):
    await limit_key(site, "key_full")
    first = asyncio.create_task(site.post(BODY))
    await until(lambda: site.engines[0].open_now == 1, site.gateway)
    others = [asyncio.create_task(site.post(BODY)) for _ in range(3)]
    done, waiting = await asyncio.wait(others, return_when=asyncio.FIRST_COMPLETED)
    assert [task.result()[0].status for task in done] == [429]
    site.engines[0].released.set()
    assert [(await task)[0].status for task in (first, *waiting)] == [200, 200, 200]


async def test_a_stream_that_its_caller_cuts_is_settled_as_far_as_it_came(site):
    await limit_key(site, "key_cut", concurrency=1, tokens_day=1000)
    await site.route(0)
    site.engines[0].mode = "stall"
    async with raw_request(site, stream=True) as reader:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        assert "x-ratelimit-limit-tokens-day: 1000\r\n" in head
        await reader.readuntil(b"data: ")
    await until(lambda: bool(events(site, "key_cut")), site.gateway)
    (event,) = events(site, "key_cut")
    assert (event.status, event.estimated) == (499, True)
    assert 0 < event.completion_tokens < 5
    assert event.prompt_tokens > 0
    assert event.ttft_s is not None
    site.engines[0].mode = "ok"
    answer, _ = await site.post(BODY)
    assert answer.status == 200
    # What the cut stream was charged for tokens that never came is given back: 10 stood for its whole answer.
    assert int(answer.headers["x-ratelimit-remaining-tokens-day"]) >= 1000 - 10 - 2 * 8
