"""Acceptance probes through the admin API: set, read, refused with the reason, and given to new replicas."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import aiohttp
import httpx
import pytest
from aiohttp import web
from sqlalchemy import select

from control_world import ARCH, Caller, World
from weighbridge.acceptance import store
from weighbridge.accounts.model import KeyKind, Org
from weighbridge.api.app import create_app
from weighbridge.replicas.model import ReplicaState
from weighbridge.storage.tables import deployments, replicas

WHO = {
    "name": "who",
    "messages": [{"role": "user", "content": "Who are you?"}],
    "max_tokens": 20,
    "checks": {"equals": "Nobody.", "max_latency_s": {"total": 2.5}},
}


async def test_what_was_set_is_read_back_with_its_defaults(
    world: World, org: Org, operator: Caller
) -> None:
    await world.create_endpoint("chat", org)
    path = "/admin/v1/endpoints/chat/probes"
    assert (await operator("GET", path)).json() == {"probes": [], "updated": None}
    answer = await operator("PUT", path, {"probes": [WHO]})
    assert answer.status_code == 200, answer.text
    assert answer.json() == (await operator("GET", path)).json()
    (probe,) = answer.json()["probes"]
    assert probe["checks"]["equals"] == "Nobody."
    assert (probe["temperature"], probe["seed"], probe["max_tokens"]) == (0.0, 0, 20)
    assert answer.json()["updated"] == int(world.time.timestamp())


@pytest.mark.parametrize(
    ("change", "words", "param"),
    [
        ({"checks": {"regex": "("}}, "is not a pattern", "probes.0.checks.regex"),
        ({"checks": {"json_schema": {"type": "strange"}}}, "not valid", "probes.0.checks.json_schema"),
        ({"checks": {"json_schema": {"$ref": "http://h/x"}}}, "leaves the schema", "probes.0.checks.json_schema"),
        ({"checks": {"json_schema": {"const": "a\0"}}}, "NUL", "probes.0.checks.json_schema"),
        ({"checks": {"json_schema": {"a\0": 1}}}, "NUL", "probes.0.checks.json_schema"),
        ({"checks": {"json_schema": {"const": "x" * 16_000}}}, "16,000", "probes.0.checks.json_schema"),
        ({"checks": {"json_schema": {"$ref": "#/$defs/none"}}}, "#/$defs/none", "probes.0.checks.json_schema"),
        ({"checks": {"json_schema": {"items": {"$ref": "#none"}}}}, "#none", "probes.0.checks.json_schema"),
        ({"checks": {"json_schema": {"$ref": "#"}}}, "not valid", "probes.0.checks.json_schema"),
        ({"checks": {"regex": "a\0"}}, "", None),
        ({"checks": {}}, "checks nothing", "probes.0.checks"),
        ({"messages": []}, "either messages or a prompt", "probes.0.messages"),
        ({"prompt": "Once"}, "either messages or a prompt", "probes.0.messages"),
        ({"max_tokens": 513}, "512", None),
        ({"name": "a b"}, "", None),
    ],
)  # fmt: skip
async def test_what_could_never_be_asked_or_checked_is_refused(
    *, world: World, org: Org, operator: Caller, change: dict, words: str, param: str | None
) -> None:
    await world.create_endpoint("chat", org)
    path = "/admin/v1/endpoints/chat/probes"
    answer = await operator("PUT", path, {"probes": [{**WHO, **change}]})
    assert answer.status_code == 400, answer.text
    assert words in answer.json()["message"]
    if param is not None:
        assert (answer.json()["code"], answer.json()["param"]) == ("invalid_probe", param)
    assert (await operator("GET", path)).json()["probes"] == []


async def test_two_of_one_name_and_more_than_the_most_are_refused(
    world: World, org: Org, operator: Caller
) -> None:
    await world.create_endpoint("chat", org)
    path = "/admin/v1/endpoints/chat/probes"
    assert "called 'who'" in (await operator("PUT", path, {"probes": [WHO, WHO]})).json()["message"]
    many = [{**WHO, "name": f"p{n}"} for n in range(17)]
    assert (await operator("PUT", path, {"probes": many})).status_code == 400


async def test_an_endpoints_probe_takes_the_place_of_its_architectures(
    world: World, org: Org, operator: Caller
) -> None:
    await world.create_endpoint("chat", org)
    for path, limit in (
        (f"/admin/v1/architectures/{ARCH}/probes", 10),
        ("/admin/v1/endpoints/chat/probes", 30),
    ):
        probes = [{**WHO, "max_tokens": limit}, {**WHO, "name": f"only-{limit}"}]
        assert (await operator("PUT", path, {"probes": probes})).status_code == 200
    async with world.database.begin() as tx:
        found = await store.of_endpoint(tx, "chat")
    assert {one.name: one.max_tokens for one in found} == {"who": 30, "only-10": 20, "only-30": 20}


async def test_a_trial_needs_probes_and_a_replica(world: World, org: Org, operator: Caller) -> None:
    await world.create_endpoint("chat", org)
    path = "/admin/v1/endpoints/chat/probes:run"
    assert (await operator("POST", path, {})).json()["code"] == "no_probes"
    answer = await operator("POST", path, {"probes": [WHO]})
    assert (answer.status_code, answer.json()["code"]) == (409, "nothing_serves")


@pytest.fixture
async def answers() -> AsyncIterator[tuple[str, list[str]]]:
    """An engine's address, and the data lines that it answers to every question."""
    lines: list[str] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for line in [*lines, "[DONE]"]:
            await response.write(f"data: {line}\n\n".encode())
        await response.write_eof()
        return response

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", lines
    await runner.cleanup()


@pytest.fixture
async def asker(
    world: World, org: Org, member: Caller, answers: tuple[str, list[str]]
) -> AsyncIterator[Caller]:
    """Calls with an admin key a server that asks replicas; endpoint `chat` has one that serves."""
    await world.create_endpoint("chat", org)
    upload = {"model_arch_id": ARCH, "model": {"weight_uri": "s3://my-bucket/w"}}
    name = (await member("POST", "/management/v1/orgs/my-org/models:upload", upload)).json()["name"]
    await world.end_sync(org, 1)
    deployed = await member("POST", "/management/v1/endpoints/chat:deployModel", {"model": name})
    where = deployments.c.id == deployed.json()["name"]
    async with world.database.begin() as tx:
        made_for = (await tx.execute(select(deployments).where(where))).one()
        row = {
            "id": "r1",
            "endpoint_id": "chat",
            "deployment_id": made_for.id,
            "version_id": made_for.version_id,
            "version_number": made_for.version_number,
            "digest": made_for.digest,
            "fingerprint": made_for.fingerprint,
            "state": ReplicaState.READY,
            "slot": 0,
            "url": answers[0],
            "created_at": world.time,
            "state_since": world.time,
            "ready_at": world.time + timedelta(seconds=1),
        }
        await tx.execute(replicas.insert().values(**row))
    _, text = await world.key(KeyKind.ADMIN, None)
    async with aiohttp.ClientSession() as session:
        app = create_app(replace(world.parts, probe_session=session))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://control") as client:
            yield Caller(client, text)


def spoken(*tokens: str, logprob: object = -0.5) -> str:
    content = [{"token": token, "logprob": logprob, "top_logprobs": []} for token in tokens]
    choice = {"index": 0, "delta": {"content": "".join(tokens)}, "logprobs": {"content": content}}
    return json.dumps({"choices": [choice]})


DRIFT = {**WHO, "checks": {"not_empty": True, "logprob_drift_max": 0.1}}
RUN = "/admin/v1/endpoints/chat/probes:run"


@pytest.mark.parametrize(
    ("line", "text", "note"),
    [
        (spoken("No", "body"), "Nobody", None),
        (spoken("No", "\ud83d"), "No\ufffd", "token 2 of the answer has half a surrogate pair"),
        (spoken("a\0"), "a\0", "token 1 of the answer has a NUL character"),
        (spoken("x" * 1_001), "x" * 1_001, "token 1 of the answer has 1,001 characters"),
        (spoken(*["a"] * 513), "a" * 513, "the answer has 513 tokens; 512 are the most"),
        (spoken("a", logprob=10**400), "a", None),
        (spoken("a", logprob=float("nan")), "a", None),
        (spoken("x" * 40_000), "x" * 16_000, "token 1"),
    ],
)
async def test_whatever_an_engine_says_a_trial_shows_it(
    *, asker: Caller, answers: tuple[str, list[str]], line: str, text: str, note: str | None
) -> None:
    answers[1].append(line)
    answer = await asker("POST", RUN, {"probes": [DRIFT]})
    assert answer.status_code == 200, answer.text
    (result,) = answer.json()["results"]
    assert result["passed"] is True
    assert result["text"] == text
    told = [one for one in result["notes"] if one.startswith("no reference:")]
    assert bool(told) is (note is not None)
    assert bool(result["reference"]) is (note is None)
    if note is not None:
        assert note in told[0]
    else:
        # What is shown as a reference can be stored as one.
        probe = {**DRIFT, "reference": result["reference"]}
        stored = await asker("PUT", "/admin/v1/endpoints/chat/probes", {"probes": [probe]})
        assert stored.status_code == 200, stored.text


async def test_what_is_no_stream_is_the_replicas_failure(
    asker: Caller, answers: tuple[str, list[str]]
) -> None:
    answers[1].append("{nonsense")
    (result,) = (await asker("POST", RUN, {"probes": [WHO]})).json()["results"]
    assert result["failures"][0]["check"] == "answer"
    assert "not readable" in result["failures"][0]["detail"]


async def test_trials_of_an_endpoint_are_limited(
    asker: Caller, answers: tuple[str, list[str]]
) -> None:
    answers[1].append(spoken("Nobody."))
    seen = [await asker("POST", RUN, {"probes": [WHO]}) for _ in range(13)]
    assert [one.status_code for one in seen] == [200] * 12 + [429]
    assert seen[-1].json()["code"] == "too_many_calls"
