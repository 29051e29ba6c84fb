"""Acceptance probes through the admin API: set, read, refused with the reason, and given to new replicas."""

import pytest

from control_world import ARCH, Caller, World
from weighbridge.acceptance import store
from weighbridge.accounts.model import Org

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
