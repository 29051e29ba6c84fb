"""Requests that meet no ready replica, on the wire: held until one is there, within limits, and fair."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from gateway_process import ENDPOINT, KEY, ORG, GatewayProcess, until
from weighbridge.gateway.metrics.figures import HoldFigures, read_figures
from weighbridge.gateway.proxy.choosing import COOLING_S

BODY = {"model": ENDPOINT, "messages": [{"role": "user", "content": "hi"}]}
HOLD_S = 20.0
WAITED_S = 0.1
SECOND_KEY = "wb_inf_two_secretofmore"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """Instead of the folder's: few are held, streams get their head soon, and comments come often."""
    process = GatewayProcess(
        tmp_path_factory.mktemp("gateway") / "data",
        arguments=(
            *("--hold-requests-max", "4", "--hold-head-s", "0.3"),
            *("--hold-bytes-max", "100000", "--stream-keepalive-s", "0.3"),
        ),
    )
    process.publish_keys(
        process.key(KEY, ORG), replace_id(process.key(SECOND_KEY, ORG), "key_more")
    )
    process.publish_routes()
    asyncio.run(process.start())
    yield process
    asyncio.run(process.stop())


def replace_id(entry, key_id: str):
    return type(entry)(entry.digest, key_id, entry.org_id)


@pytest.fixture(autouse=True)
async def fresh(site) -> None:
    """The endpoint has just been served, so its next outage is a new one."""
    await site.route(0, hold_s=HOLD_S)
    await asyncio.sleep(0.06)


def figures(site) -> HoldFigures:
    for worker in read_figures(site.gateway.paths.run):
        for hold in worker.holds:
            if hold.endpoint_id == ENDPOINT:
                return hold
    return HoldFigures(ENDPOINT)


def ended(site) -> list[dict]:
    lines = (line for line in site.log.splitlines() if '"event":"request"' in line)
    return [json.loads(line) for line in lines]


async def waiting(site, count: int) -> None:
    await until(lambda: figures(site).waiting == count, site.gateway)


async def test_a_request_waits_for_the_replica_that_comes(site):
    await site.route(hold_s=HOLD_S)
    before = figures(site).held
    held = asyncio.create_task(site.post(BODY))
    await waiting(site, 1)
    await asyncio.sleep(WAITED_S)
    await site.route(1, hold_s=HOLD_S)
    answer, _ = await held
    assert answer.status == 200
    assert "retry-after" not in answer.headers
    await until(lambda: bool(ended(site)), site.gateway)
    (record,) = ended(site)
    assert (record["attempts"], record["queued_ms"]) == (1, 0.0)
    assert record["held_ms"] >= WAITED_S * 1000
    await waiting(site, 0)
    found = figures(site)
    assert (found.held - before, found.streams) == (1, 0)
    assert found.released == found.held
    async with site.session.get(f"http://127.0.0.1:{site.gateway.probe_port}/metrics") as metrics:
        text = await metrics.text()
    assert f'weighbridge_gateway_held_requests_total{{worker="0",endpoint="{ENDPOINT}"}}' in text


async def test_a_stream_that_waits_long_gets_its_head_and_comments_then_its_answer(site):
    await site.route(hold_s=HOLD_S)
    async with site.session.post(
        site.gateway.url + "/v1/chat/completions", json={**BODY, "stream": True}
    ) as answer:
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert "x-request-id" in answer.headers
        assert await answer.content.readuntil(b"\n\n") == b": hold\n\n"
        await site.route(1, hold_s=HOLD_S)
        text = (await answer.content.read()).decode()
    frames = [part for part in text.split("\n\n") if part and not part.startswith(":")]
    assert frames[-1] == "data: [DONE]"
    assert {json.loads(frame[6:])["model"] for frame in frames[:-1]} == {ENDPOINT}
    assert len(frames) == 8


async def test_a_stream_served_soon_has_no_comment(site):
    await site.route(hold_s=HOLD_S)
    held = asyncio.create_task(site.post({**BODY, "stream": True}))
    await asyncio.sleep(0.1)
    await site.route(1, hold_s=HOLD_S)
    answer, text = await held
    assert answer.status == 200
    assert text.startswith("data: ")


async def test_when_the_wait_is_over_it_is_503_and_says_when_to_come_back(site):
    await site.route(hold_s=0.5, start_s=7.2)
    start_s = time.monotonic()
    answer, text = await site.post(BODY)
    assert 0.5 <= time.monotonic() - start_s < 5
    assert (answer.status, json.loads(text)["code"]) == (503, "no_ready_replica")
    assert answer.headers["retry-after"] == "8"
    await waiting(site, 0)


async def test_a_stream_whose_head_is_out_ends_with_an_error_event(site):
    await site.route(hold_s=0.7)
    answer, text = await site.post({**BODY, "stream": True})
    assert answer.status == 200
    *comments, event = [part for part in text.split("\n\n") if part]
    assert set(comments) == {": hold"}
    error = json.loads(event.removeprefix("data: "))
    assert (error["status_code"], error["error"]["code"]) == (503, "no_ready_replica")
    await until(lambda: bool(ended(site)), site.gateway)
    assert ended(site)[0]["status"] == 503


async def test_nobody_waits_for_a_replica_that_is_expected_too_late(site):
    soon = time.time() + 30
    await site.route(hold_s=5.0, start_s=40.0, ready_expected_unix_s=soon)
    answer, text = await site.post(BODY)
    assert (answer.status, json.loads(text)["code"]) == (503, "no_ready_replica")
    assert 25 <= int(answer.headers["retry-after"]) <= 30
    assert not ended(site) or ended(site)[0]["held_ms"] == 0.0


async def test_without_a_hold_it_is_503_at_once_with_the_same_estimate(site):
    await site.route(hold_s=0.0, start_s=300.0)
    answer, _ = await site.post(BODY)
    assert (answer.status, answer.headers["retry-after"]) == (503, "300")
    assert answer.headers["x-should-retry"] == "false"


async def test_a_full_hold_drops_the_newest_of_the_key_that_has_most(site):
    await site.route(hold_s=HOLD_S, start_s=3.0)
    greedy = [asyncio.create_task(site.post(BODY)) for _ in range(4)]
    await waiting(site, 4)
    modest = asyncio.create_task(site.post(BODY, headers={"authorization": f"Bearer {SECOND_KEY}"}))
    done, _ = await asyncio.wait(greedy, return_when=asyncio.FIRST_COMPLETED)
    (refused,) = [task.result()[0] for task in done]
    assert (refused.status, refused.headers["retry-after"]) == (503, "3")
    await site.route(1, hold_s=HOLD_S)
    statuses = Counter([(await task)[0].status for task in (*greedy, modest)])
    assert statuses == {200: 4, 503: 1}
    assert (await modest)[0].status == 200
    # Keys took turns: the modest one's only request was not the last.
    await until(lambda: len(ended(site)) == 5, site.gateway)
    order = [record["key_id"] for record in ended(site) if record["status"] == 200]
    assert "key_more" in order


async def test_the_bytes_of_all_that_wait_are_limited(site):
    await site.route(hold_s=HOLD_S)
    messages = [{"role": "user", "content": "x" * 60_000}]
    held = asyncio.create_task(site.post({**BODY, "messages": messages}))
    await waiting(site, 1)
    refused, _ = await site.post({**BODY, "messages": messages})
    assert refused.status == 503
    small = asyncio.create_task(site.post(BODY))
    await waiting(site, 2)
    await site.route(1, hold_s=HOLD_S)
    assert [(await task)[0].status for task in (held, small)] == [200, 200]


async def test_who_leaves_is_out_of_the_line_at_once(site):
    await site.route(hold_s=HOLD_S)
    leaving = [asyncio.create_task(site.post(BODY)) for _ in range(3)]
    streamed = asyncio.create_task(site.post({**BODY, "stream": True}))
    await waiting(site, 4)
    for task in (*leaving, streamed):
        task.cancel()
    await until(lambda: [r["status"] for r in ended(site)] == [499] * 4, site.gateway)
    await waiting(site, 0)
    await site.route(1, hold_s=HOLD_S)
    assert (await site.post(BODY))[0].status == 200
    assert len(site.engines[1].bodies) == 1


async def test_a_crash_of_the_only_replica_is_held_and_the_request_asked_again(site):
    """It dies with the request in its hands, and is still in the table when more arrive."""
    site.engines[0].mode = "drop"
    held = [asyncio.create_task(site.post(BODY))]
    await waiting(site, 1)
    held += [asyncio.create_task(site.post(BODY)) for _ in range(2)]
    await site.route(hold_s=HOLD_S)
    await waiting(site, 3)
    await site.route(1, hold_s=HOLD_S)
    assert [(await task)[0].status for task in held] == [200] * 3


async def test_a_replica_that_only_stumbled_is_asked_again_after_a_moment(site):
    site.engines[0].mode = "drop"
    held = asyncio.create_task(site.post(BODY))
    await waiting(site, 1)
    site.engines[0].mode = "ok"
    answer, _ = await held
    assert answer.status == 200
    await until(lambda: bool(ended(site)), site.gateway)
    assert ended(site)[0]["attempts"] == 2


async def test_a_replica_that_answers_wrongly_is_there_and_keeps_nobody_waiting(site):
    """One at a time, so each of the four finds one that has failed somebody a moment ago."""
    await site.route(hold_s=HOLD_S)
    held = [asyncio.create_task(site.post(BODY)) for _ in range(4)]
    await waiting(site, 4)
    site.engines[1].mode = "500"
    await site.route(1, hold_s=HOLD_S, in_flight_max=1)
    start_s = time.monotonic()
    assert [(await task)[0].status for task in held] == [503] * 4
    assert time.monotonic() - start_s < 2 * COOLING_S
    assert len(site.engines[1].bodies) == 4


async def test_a_request_that_kills_whoever_it_meets_is_given_up(site):
    site.engines[0].mode = "drop"
    answer, text = await site.post(BODY)
    assert (answer.status, json.loads(text)["code"]) == (503, "replicas_failed")
    assert len(site.engines[0].bodies) == 3


async def test_what_was_held_is_let_go_in_turns_and_who_comes_later_does_not_overtake(site):
    await site.route(hold_s=HOLD_S)
    first = [asyncio.create_task(site.post(BODY)) for _ in range(3)]
    await waiting(site, 3)
    site.engines[1].mode = "silent"
    await site.route(1, hold_s=HOLD_S, in_flight_max=1)
    await until(lambda: site.engines[1].open_now == 1, site.gateway)
    later = asyncio.create_task(site.post({**BODY, "max_tokens": 3}))
    await waiting(site, 3)
    assert site.engines[1].open_now == 1
    site.engines[1].mode = "ok"
    site.engines[1].released.set()
    assert [(await task)[0].status for task in (*first, later)] == [200] * 4
    assert site.engines[1].bodies[-1].get("max_tokens") == 3


async def test_a_stream_that_has_begun_is_kept_alive_between_its_events(site):
    """`--stream-keepalive-s 0.3`, and a second between two tokens."""
    site.engines[0].pause_s = 1.0
    site.engines[0].tokens = 2
    answer, text = await site.post({**BODY, "stream": True})
    assert answer.status == 200
    parts = [part for part in text.split("\n\n") if part]
    assert ": keep-alive" in parts
    assert parts[0].startswith("data: ")
    assert all(part == ": keep-alive" or part.startswith("data: ") for part in parts)
    assert parts[-1] == "data: [DONE]"


async def test_a_whole_answer_is_never_preceded_by_comments(site):
    site.engines[0].mode = "silent"
    held = asyncio.create_task(site.post(BODY))
    await asyncio.sleep(1.0)
    site.engines[0].released.set()
    answer, text = await held
    assert answer.status == 200
    assert json.loads(text)["choices"]


async def test_the_openai_client_reads_a_held_stream(site):
    openai = pytest.importorskip("openai")
    await site.route(hold_s=HOLD_S)
    client = openai.AsyncOpenAI(api_key=KEY, base_url=f"{site.gateway.url}/v1", max_retries=0)

    async def read() -> str:
        stream = await client.chat.completions.create(
            model=ENDPOINT, messages=BODY["messages"], stream=True
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async with client:
        reading = asyncio.create_task(read())
        await waiting(site, 1)
        await asyncio.sleep(0.8)
        await site.route(1, hold_s=HOLD_S)
        assert await reading == "w0 w1 w2 w3 w4 "


async def test_an_engine_s_refusal_after_the_head_is_an_error_event(site):
    site.engines[1].mode = "context"
    await site.route(hold_s=HOLD_S)
    held = asyncio.create_task(site.post({**BODY, "stream": True}))
    await waiting(site, 1)
    await asyncio.sleep(0.6)
    await site.route(1, hold_s=HOLD_S)
    answer, text = await held
    assert answer.status == 200
    *comments, event = [part for part in text.split("\n\n") if part]
    assert set(comments) == {": hold"}
    error = json.loads(event.removeprefix("data: "))
    assert (error["status_code"], error["error"]["code"]) == (400, "context_length_exceeded")
    await until(lambda: bool(ended(site)), site.gateway)
    assert ended(site)[0]["status"] == 400


async def test_a_held_stream_whose_replica_dies_before_a_token_is_asked_again(site):
    site.engines[1].mode = "drop"
    await site.route(hold_s=HOLD_S)
    held = asyncio.create_task(site.post({**BODY, "stream": True}))
    await waiting(site, 1)
    await asyncio.sleep(0.6)
    await site.route(1, hold_s=HOLD_S)
    await until(lambda: bool(site.engines[1].bodies), site.gateway)
    await site.route(2, hold_s=HOLD_S)
    answer, text = await held
    assert answer.status == 200
    assert text.endswith("data: [DONE]\n\n")
    assert "error" not in text
    assert len(site.engines[2].bodies) == 1
