"""Members of the public API that few callers send, on the wire: each is honoured or refused, never dropped."""

import asyncio
import json

import pytest

from gateway_process import ENDPOINT, KEY, ORG, until
from weighbridge.routing.limits import UsageLimits

BODY = {"model": ENDPOINT, "messages": [{"role": "user", "content": "hi"}]}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
ORPHAN = [{"role": "user", "content": "hi"}, {"role": "tool", "tool_call_id": "c9", "content": "x"}]
TOOL = {"type": "function", "function": {"name": "f"}}
STRICT = {
    "type": "json_schema",
    "json_schema": {"name": "s", "strict": True, "schema": {"type": "object", "properties": {}}},
}


def message(text: str) -> str:
    return json.loads(text)["message"]


async def get(site, path: str) -> tuple[int, dict]:
    async with site.session.get(site.gateway.url + path) as answer:
        return answer.status, json.loads(await answer.text())


async def anybody(site, path: str) -> tuple[int, dict]:
    """Without a key."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.gateway.port)
    writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return int(head.split()[1]), json.loads(body)


@pytest.mark.parametrize(
    ("members", "asks_for_usage"),
    [
        ({}, True),
        ({"stream_options": {}}, True),
        ({"stream_options": {"include_usage": True}}, True),
        ({"stream_options": {"include_usage": False}}, False),
    ],
)
async def test_a_stream_tells_its_usage_unless_it_is_not_wanted(site, members, asks_for_usage):
    answer, text = await site.post({**BODY, **members, "stream": True})
    assert answer.status == 200
    last = json.loads(text.split("\n\n")[-3].removeprefix("data: "))
    assert ("usage" in last) is asks_for_usage
    assert last["time_info"]["total_time"] > 0
    # The engine is asked in any case: it is what is charged.
    engine = next(one for one in site.engines if one.bodies)
    assert engine.bodies[-1]["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("patch", ["1", "2", None])
@pytest.mark.parametrize(
    "members",
    [
        {"messages": ORPHAN, "tools": [TOOL]},
        {"tool_choice": "auto"},
        {"response_format": STRICT},
    ],
)
async def test_the_version_patch_says_by_which_rules_a_body_is_checked(site, patch, members):
    await site.route(0, tools=True)
    headers = {} if patch is None else {"x-cerebras-version-patch": patch}
    answer, text = await site.post({**BODY, **members}, headers=headers)
    assert answer.status == (200 if patch == "1" else 400), text


async def test_another_version_patch_is_refused(site):
    answer, text = await site.post(BODY, headers={"X-Cerebras-Version-Patch": "3"})
    assert answer.status == 400
    assert "must be 1 or 2" in message(text)


@pytest.mark.parametrize(
    ("threshold", "tier", "status"),
    [
        ("50", "flex", 200),
        ("20000", "auto", 200),
        ("49", "flex", 400),
        ("20001", "auto", 400),
        ("soon", "auto", 400),
        ("nan", "auto", 400),
        ("100", "default", 400),
        ("100", None, 400),
    ],
)
async def test_a_queue_threshold_is_checked(site, threshold, tier, status):
    body = BODY if tier is None else {**BODY, "service_tier": tier}
    answer, text = await site.post(body, headers={"queue_threshold": threshold})
    assert answer.status == status, text


async def test_a_queue_longer_than_the_threshold_refuses_at_once(site):
    await site.route(0, in_flight_max=1)
    engine = site.engines[0]
    engine.mode = "silent"
    first = asyncio.create_task(site.post(BODY))
    await until(lambda: engine.open_now == 1, site.gateway)
    second = asyncio.create_task(site.post(BODY))
    await asyncio.sleep(0.4)
    engine.released.set()
    assert [(await task)[0].status for task in (first, second)] == [200, 200]
    # Nobody waits, so there is no queue, however long the last wait was.
    patient = {**BODY, "service_tier": "flex"}
    assert (await site.post(patient, headers={"queue_threshold": "50"}))[0].status == 200
    engine.released.clear()
    third = asyncio.create_task(site.post(BODY))
    await until(lambda: engine.open_now == 1, site.gateway)
    fourth = asyncio.create_task(site.post(BODY))
    await asyncio.sleep(0.1)
    refused, text = await site.post(patient, headers={"queue_threshold": "100"})
    assert (refused.status, json.loads(text)["code"]) == (429, "queue_exceeded")
    assert "longer than queue_threshold" in message(text)
    waiting = asyncio.create_task(site.post(patient, headers={"queue_threshold": "20000"}))
    await asyncio.sleep(0.1)
    engine.released.set()
    assert [(await task)[0].status for task in (third, fourth, waiting)] == [200] * 3


@pytest.mark.parametrize(
    ("member", "reasons", "honoured"),
    [
        ({"reasoning_effort": "low"}, True, True),
        ({"reasoning_effort": "low"}, False, False),
        ({"reasoning_effort": "none"}, False, True),
        ({"disable_reasoning": True}, False, True),
        ({"reasoning_format": "parsed"}, True, True),
        ({"reasoning_format": "text_parsed"}, True, True),
        ({"reasoning_format": "parsed"}, False, False),
        ({"reasoning_format": "raw"}, True, False),
        ({"reasoning_format": "hidden"}, True, False),
        ({"clear_thinking": True}, True, True),
        ({"clear_thinking": False}, True, False),
    ],
)
async def test_reasoning_members_reach_the_engine_or_are_refused(site, member, reasons, honoured):
    await site.route(0, reasoning=reasons)
    answer, text = await site.chat(**member)
    assert answer.status == (200 if honoured else 400), text
    if not honoured:
        assert json.loads(text)["code"] == "unsupported"
        assert next(iter(member)) in message(text)
    if member.get("reasoning_effort") == "low" and honoured:
        assert site.engines[0].bodies[-1]["reasoning_effort"] == "low"


async def test_models_are_listed_in_each_format(site):
    await site.route(0, context_tokens=2048, tools=True)
    status, plain = await get(site, "/v1/models?format=default")
    assert status == 200
    assert plain == (await get(site, "/v1/models"))[1]
    assert set(plain["data"][0]) == {"id", "object", "created", "owned_by"}
    (router,) = (await get(site, "/v1/models?format=openrouter"))[1]["data"]
    assert (router["id"], router["context_length"]) == (ENDPOINT, 2048)
    assert router["supported_features"] == ["tools", "json_mode", "structured_outputs"]
    (hub,) = (await get(site, "/v1/models?format=huggingface"))[1]["data"]
    assert (hub["id"], hub["supports_tools"]) == (ENDPOINT, True)
    assert (await get(site, f"/v1/models/{ENDPOINT}?format=huggingface"))[1] == hub
    status, refused = await get(site, "/v1/models?format=toml")
    assert (status, refused["code"]) == (400, "wrong_api_format")


async def test_anybody_sees_what_is_public_and_nothing_else(site):
    await site.route(0)
    assert await anybody(site, "/public/v1/models") == (200, {"object": "list", "data": []})
    hidden = await anybody(site, f"/public/v1/models/{ENDPOINT}")
    limits = UsageLimits(requests_minute=60)
    await site.route(0, public=True, context_tokens=4096, limits=limits)
    status, listed = await anybody(site, "/public/v1/models")
    (model,) = listed["data"]
    assert status == 200
    assert (model["id"], model["owned_by"]) == (ENDPOINT, "acme")
    assert model["limits"] == {
        "max_context_length": 4096,
        "max_completion_tokens": 4096,
        "requests_per_minute": 60,
        "tokens_per_minute": None,
    }
    assert model["capabilities"]["streaming"] is True
    assert model["pricing"] == {"prompt": "0", "completion": "0"}
    assert (await anybody(site, f"/public/v1/models/{ENDPOINT}"))[1] == model
    other = await anybody(site, "/public/v1/models/other-tiny")
    assert hidden[0] == other[0] == 404
    assert other[1]["message"] == hidden[1]["message"].replace(ENDPOINT, "other-tiny")
    (router,) = (await anybody(site, "/public/v1/models?format=openrouter"))[1]["data"]
    assert router["context_length"] == 4096


async def test_an_answer_without_a_limit_is_charged_with_what_is_left_of_the_context(site):
    entry = site.gateway.key(KEY, ORG)
    limited = type(entry)(entry.digest, "key_context", ORG, None, UsageLimits(tokens_day=10_000))
    generation = site.gateway.publish_keys(limited)
    await until(lambda: (site.gateway.view.keys_acked() or 0) >= generation, site.gateway)
    site.engines[0].mode = "silent"
    await site.route(0, context_tokens=4000)
    tasks = [asyncio.create_task(site.chat()) for _ in range(2)]
    await until(lambda: site.engines[0].open_now == 2, site.gateway)
    refused, text = await site.chat()
    assert (refused.status, json.loads(text)["code"]) == (429, "token_quota_exceeded")
    assert int(refused.headers["x-ratelimit-remaining-tokens-day"]) in range(2000, 2100)
    site.engines[0].released.set()
    assert [(await task)[0].status for task in tasks] == [200, 200]
    back = site.gateway.publish_keys()
    await until(lambda: (site.gateway.view.keys_acked() or 0) >= back, site.gateway)
