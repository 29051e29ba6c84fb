"""Limits, waiting and usage on the wire: a real worker process, keys of each test's own."""

import asyncio
import json

import msgspec
import pytest

from gateway_process import ENDPOINT, ORG, until
from weighbridge.routing.limits import UsageLimits
from weighbridge.usage.lines import read_lines
from weighbridge.usage.model import UsageEvent
from weighbridge.usage.spool import spools_in

BODY = {"model": ENDPOINT, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 10}


async def key_with(site, name: str, **limits: int) -> dict[str, str]:
    """The headers of a caller whose key has these limits."""
    text = f"wb_inf_{name}_secretof{name}"
    entry = msgspec.structs.replace(
        site.gateway.key(text, ORG), key_id=f"key_{name}", limits=UsageLimits(**limits)
    )
    generation = site.gateway.publish_keys(*site.gateway.usual_keys(), entry)
    await until(lambda: (site.gateway.view.keys_acked() or 0) >= generation, site.gateway)
    return {"authorization": f"Bearer {text}"}


def events(site, key_id: str) -> list[UsageEvent]:
    found = []
    for path in spools_in(site.gateway.paths.usage):
        found += read_lines(path.read_bytes()).events
    return [one for one in found if one.key_id == key_id]


async def test_an_answer_tells_how_the_limits_stand(site):
    headers = await key_with(site, "tells", requests_day=100, tokens_minute=1000)
    for stream in (False, True):
        answer, _ = await site.post({**BODY, "stream": stream}, headers=headers)
        assert answer.status == 200
        used = 2 if stream else 1
        assert answer.headers["x-ratelimit-limit-requests-day"] == "100"
        assert answer.headers["x-ratelimit-remaining-requests-day"] == str(100 - used)
        reset_s = float(answer.headers["x-ratelimit-reset-requests-day"])
        assert 864 * used - 60 < reset_s <= 864 * used
        assert answer.headers["x-ratelimit-limit-tokens-minute"] == "1000"
        assert 900 < int(answer.headers["x-ratelimit-remaining-tokens-minute"]) < 1000


async def test_a_key_without_limits_gets_no_such_headers(site):
    answer, _ = await site.post(BODY)
    assert not [name for name in answer.headers if name.lower().startswith("x-ratelimit")]


async def test_beyond_the_limit_the_answer_is_the_hosted_api_s_429(site):
    headers = await key_with(site, "beyond", requests_minute=2)
    answers = [await site.post(BODY, headers=headers) for _ in range(3)]
    assert [answer.status for answer, _ in answers] == [200, 200, 429]
    refused, text = answers[2]
    assert json.loads(text) == {
        "message": "Requests per minute limit exceeded - too many requests sent.",
        "type": "too_many_requests_error",
        "param": "quota",
        "code": "request_quota_exceeded",
    }
    assert 1 <= int(refused.headers["retry-after"]) <= 30
    assert "x-should-retry" not in refused.headers
    assert refused.headers["x-ratelimit-remaining-requests-minute"] == "0"


async def test_a_day_s_quota_is_not_worth_waiting_for(site):
    headers = await key_with(site, "day", tokens_day=20)
    answers = [await site.post(BODY, headers=headers) for _ in range(3)]
    refused, text = answers[-1]
    assert (refused.status, json.loads(text)["code"]) == (429, "token_quota_exceeded")
    assert json.loads(text)["message"] == (
        "Tokens per day limit exceeded - too many tokens processed."
    )
    assert int(refused.headers["retry-after"]) > 60
    assert refused.headers["x-should-retry"] == "false"


async def test_a_new_limit_counts_without_a_restart_and_may_be_lifted(site):
    headers = await key_with(site, "changes", concurrency=1)
    assert (await site.post(BODY, headers=headers))[0].status == 200
    assert await key_with(site, "changes", requests_hour=1) == headers
    statuses = [(await site.post(BODY, headers=headers))[0].status for _ in range(2)]
    assert statuses == [200, 429]
    await key_with(site, "changes")
    assert (await site.post(BODY, headers=headers))[0].status == 200


async def test_concurrent_requests_are_limited_per_key(site):
    await site.route(0)
    site.engines[0].mode = "silent"
    headers = await key_with(site, "concurrent", concurrency=2)
    waiting = [asyncio.create_task(site.post(BODY, headers=headers)) for _ in range(2)]
    await until(lambda: site.engines[0].open_now == 2, site.gateway)
    refused, text = await site.post(BODY, headers=headers)
    assert (refused.status, json.loads(text)["code"]) == (429, "request_quota_exceeded")
    site.engines[0].released.set()
    assert [(await task)[0].status for task in waiting] == [200, 200]
    assert (await site.post(BODY, headers=headers))[0].status == 200


async def test_a_busy_endpoint_answers_keys_in_turn(site):
    """One key has many requests waiting; another's one request comes after the first of them."""
    await site.route(0, in_flight_max=1)
    site.engines[0].mode = "silent"
    greedy, modest = await key_with(site, "greedy"), await key_with(site, "modest")
    order: list[str] = []
    generation = site.gateway.publish_keys(
        *site.gateway.usual_keys(),
        *(
            msgspec.structs.replace(site.gateway.key(h["authorization"][7:], ORG), key_id=name)
            for name, h in (("greedy", greedy), ("modest", modest))
        ),
    )
    await until(lambda: (site.gateway.view.keys_acked() or 0) >= generation, site.gateway)

    async def ask(name: str, headers: dict[str, str]) -> None:
        answer, _ = await site.post(BODY, headers=headers)
        assert answer.status == 200
        order.append(name)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(ask("first", greedy))
        await until(lambda: site.engines[0].open_now == 1, site.gateway)
        for _ in range(6):
            tasks.create_task(ask("greedy", greedy))
        await asyncio.sleep(0.3)  # nothing tells from outside that all of them wait
        tasks.create_task(ask("modest", modest))
        await asyncio.sleep(0.3)
        assert site.engines[0].open_now == 1
        site.engines[0].released.set()
    assert order[0] == "first"
    assert order.index("modest") <= 2
    await until(lambda: bool(events(site, "modest")), site.gateway)
    first = events(site, "modest")[0]
    assert first.asked_s >= first.queue_s > 0.1


@pytest.mark.parametrize("stream", [False, True])
async def test_what_was_used_is_spooled_within_seconds(site, stream):
    name = f"spooled{stream}".lower()
    headers = await key_with(site, name)
    await site.post({**BODY, "stream": stream}, headers=headers)
    await until(lambda: bool(events(site, f"key_{name}")), site.gateway)
    (event,) = events(site, f"key_{name}")
    assert (event.org_id, event.endpoint_id, event.version, event.status) == (ORG, ENDPOINT, 1, 200)
    used = (event.prompt_tokens, event.cached_tokens, event.completion_tokens, event.estimated)
    assert used == (7, 4, 5, False)
    assert 0 <= event.asked_s < event.ttft_s <= event.duration_s


@pytest.mark.parametrize(("fault", "blamed"), [("500", 1), ("drop", 0), ("busy", 0)])
async def test_a_wrong_answer_stays_on_its_version_s_account_when_another_replica_answers(
    site, fault, blamed
):
    """What was lost on the way or only busy says nothing about a version."""
    headers = await key_with(site, f"blames{fault}")
    site.engines[0].mode = fault
    await site.route(0, 1)
    while not site.engines[0].bodies:
        assert (await site.post(BODY, headers=headers))[0].status == 200
    asked = len(site.engines[1].bodies)
    await until(lambda: len(events(site, f"key_blames{fault}")) == asked, site.gateway)
    found = events(site, f"key_blames{fault}")
    assert {(one.status, one.version) for one in found} == {(200, 1)}
    assert [one.failed_version for one in found] == [0] * (asked - 1) + [blamed]


async def test_an_answer_that_broke_off_is_counted_as_far_as_it_came(site):
    headers = await key_with(site, "broken", tokens_day=100_000)
    await site.route(0)
    site.engines[0].mode = "cut"
    await site.post({**BODY, "stream": True}, headers=headers)
    await until(lambda: bool(events(site, "key_broken")), site.gateway)
    (event,) = events(site, "key_broken")
    assert event.estimated
    assert event.cut
    assert event.completion_tokens > 0
    assert event.prompt_tokens > 0
    answer, _ = await site.post({**BODY, "model": "none"}, headers=headers)
    assert answer.status == 404


async def test_refusals_are_counted_without_tokens_and_unavailability_costs_no_quota(site):
    headers = await key_with(site, "refused", requests_day=2)
    await site.route(0)
    site.engines[0].mode = "500"
    assert (await site.post(BODY, headers=headers))[0].status == 503
    site.engines[0].mode = "ok"
    await asyncio.sleep(1.1)  # the replica that failed cools for a second
    statuses = [(await site.post(BODY, headers=headers))[0].status for _ in range(3)]
    assert statuses == [200, 200, 429]
    await until(lambda: len(events(site, "key_refused")) == 4, site.gateway)
    found = [(one.status, one.completion_tokens) for one in events(site, "key_refused")]
    assert found == [(503, 0), (200, 5), (200, 5), (429, 0)]
