"""Which replica answers, on the wire: none ready, all full, one fails, a stream breaks, a caller leaves."""

import asyncio
import json
import time

import pytest

from gateway_process import ENDPOINT, KEY, until
from stub_engine import StubEngine

BODY = {"model": ENDPOINT, "messages": [{"role": "user", "content": "hi"}]}
RETRYABLE_FAULTS = ("500", "busy", "drop", "wrong_name", "dead", "wrong_token")


def events(text: str) -> list:
    parts = [part.removeprefix("data: ") for part in text.strip().split("\n\n")]
    return [part if part == "[DONE]" else json.loads(part) for part in parts]


async def test_without_a_ready_replica_the_answer_is_503_at_once(site):
    await site.route()
    begin = time.monotonic()
    answer, text = await site.chat()
    assert time.monotonic() - begin < 0.1
    assert answer.status == 503
    assert answer.headers["retry-after"] == "1"
    assert json.loads(text)["code"] == "no_ready_replica"


async def test_a_full_endpoint_is_429_and_nothing_queues(site):
    await site.route(0, in_flight_max=1)
    site.engines[0].mode = "silent"
    waiting = asyncio.create_task(site.chat())
    await until(lambda: site.engines[0].open_now == 1)
    answer, text = await site.chat()
    assert (answer.status, json.loads(text)["code"]) == (429, "queue_exceeded")
    site.engines[0].released.set()
    assert (await waiting)[0].status == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", RETRYABLE_FAULTS)
async def test_another_replica_answers_when_one_fails_before_its_first_byte(site, fault, stream):
    broken: StubEngine = site.engines[0]
    if fault == "dead":
        site.urls[0] = "http://127.0.0.1:9"
    elif fault == "wrong_token":
        broken.token = "another"
    else:
        broken.mode = fault
    await site.route(0, 1)
    answers = [await site.chat(stream=stream) for _ in range(6)]
    assert {answer.status for answer, _ in answers} == {200}
    assert len(site.engines[1].bodies) == 6
    await site.route(0)
    answer, text = await site.chat(stream=stream)
    assert answer.status == (429 if fault == "busy" else 503)
    assert answer.headers["retry-after"] == "1"
    assert broken.served_name not in text


@pytest.mark.parametrize("stream", [False, True])
async def test_an_engine_that_closes_idle_connections_unannounced_is_not_taken_for_dead(
    site, stream
):
    await site.route(0)
    site.engines[0].mode = "no_reuse"
    for _ in range(3):
        answers = await asyncio.gather(*(site.chat(stream=stream) for _ in range(8)))
        assert {answer.status for answer, _ in answers} == {200}
    assert "replica.failed" not in site.log


async def test_at_most_three_replicas_see_a_request(site):
    for engine in site.engines:
        engine.mode = "500"
    await site.route(0, 1, 2)
    answer, _ = await site.chat()
    assert answer.status == 503
    assert [len(engine.bodies) for engine in site.engines] == [1, 1, 1]


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("cut", "answer_cut"),
        ("early_end", "answer_cut"),
        ("error_event", "engine_failed"),
        ("other_fingerprint", "wrong_identity"),
    ],
)
async def test_a_stream_that_breaks_ends_with_one_error_event(site, fault, code):
    await site.route(0)
    site.engines[0].mode, site.engines[0].pause_s = fault, 0.02
    answer, text = await site.chat(stream=True)
    *chunks, last = events(text)
    assert answer.status == 200
    assert len(chunks) == 3
    assert last["status_code"] == 503
    assert last["error"]["code"] == code
    assert last["error"]["id"] == chunks[0]["id"]
    assert "[DONE]" not in text
    again, _ = await site.chat()
    assert again.status == 200


async def test_a_prompt_too_long_is_the_caller_s_400_and_is_not_retried(site):
    for engine in site.engines:
        engine.mode = "context"
    answer, text = await site.chat()
    assert answer.status == 400
    assert "Please reduce the length of the messages or completion" in text
    assert ".replica" not in text
    assert site.engines[0].served_name not in text
    assert sum(len(engine.bodies) for engine in site.engines) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_caller_that_leaves_frees_the_engine_within_a_second(site, stream):
    await site.route(0)
    engine = site.engines[0]
    engine.mode, engine.pause_s = ("ok", 30.0) if stream else ("silent", 0.0)
    leaving = asyncio.create_task(site.chat(stream=stream))
    await until(lambda: engine.open_now == 1 and site.gateway.view.in_flight(0) == 1)
    leaving.cancel()
    await until(lambda: engine.open_now == 0, limit_s=1.0)
    await until(lambda: site.gateway.view.in_flight(0) == 0, limit_s=1.0)
    assert engine.aborted == 1
    await until(lambda: '"status":499' in site.log)


async def test_a_reader_that_stops_holds_the_engine_back_and_costs_no_memory(site):
    await site.route(0)
    engine = site.engines[0]
    engine.tokens = 400_000
    before = await resident_bytes(site)
    body = json.dumps({**BODY, "stream": True}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", site.gateway.port, limit=1024)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    await reader.readline()
    await asyncio.sleep(2.0)  # as long as a reader that keeps up would take for many megabytes
    assert engine.open_now == 1
    assert await resident_bytes(site) - before < 8 * 1024 * 1024
    writer.transport.abort()
    await until(lambda: engine.open_now == 0, limit_s=2.0)


async def test_requests_are_spread_over_the_replicas(site):
    for engine in site.engines[:2]:
        engine.mode = "silent"
    waiting = [asyncio.create_task(site.chat()) for _ in range(10)]
    await until(lambda: sum(engine.open_now for engine in site.engines) == 10)
    assert [engine.open_now for engine in site.engines[:2]] == [5, 5]
    assert [site.gateway.view.in_flight(slot) for slot in (0, 1)] == [5, 5]
    for engine in site.engines:
        engine.released.set()
    assert {(await task)[0].status for task in waiting} == {200}


async def resident_bytes(site) -> int:
    pid = site.gateway.view.workers()[0].pid
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:  # noqa: ASYNC230, PTH123 - /proc
        return int(file.read().split()[1]) * 4096
