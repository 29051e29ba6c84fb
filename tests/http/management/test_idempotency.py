"""D7: the same Idempotency-Key gives the same answer, and the thing is done once."""

import asyncio
import json

import httpx
import pytest
from sqlalchemy import func, select

from control_world import ARCH, Caller, World
from weighbridge.accounts.model import KeyKind, Org
from weighbridge.storage import idempotency
from weighbridge.storage.tables import deployments, model_versions

UPLOAD = "/management/v1/orgs/my-org/models:upload"
DEPLOY = "/management/v1/endpoints/chat:deployModel"
BODY = {"model_arch_id": ARCH, "model": {"weight_uri": "s3://my-bucket/weights"}}


async def send(caller: Caller, path: str, body: object, key: str | None) -> httpx.Response:
    headers = {"authorization": f"Bearer {caller.key}", "content-type": "application/json"}
    if key is not None:
        headers["idempotency-key"] = key
    return await caller.client.post(path, content=json.dumps(body), headers=headers)


async def count(world: World, column: object) -> int:
    async with world.database.begin() as tx:
        return int((await tx.execute(select(func.count(column)))).scalar_one())


async def test_an_upload_that_is_sent_again_is_answered_again_and_made_once(
    world: World, member: Caller
) -> None:
    first = await send(member, UPLOAD, BODY, "retry-1")
    again = await send(member, UPLOAD, BODY, "retry-1")
    assert (first.status_code, again.status_code) == (200, 200)
    assert again.json() == first.json()
    assert await count(world, model_versions.c.id) == 1
    other = await send(member, UPLOAD, BODY, "retry-2")
    assert other.json()["name"].endswith("/versions/2")
    assert (await send(member, UPLOAD, BODY, None)).json()["name"].endswith("/versions/3")


async def test_a_deployment_that_is_sent_again_is_queued_once(
    world: World, org: Org, member: Caller
) -> None:
    await send(member, UPLOAD, BODY, None)
    await world.end_sync(org, 1)
    await world.create_endpoint("chat", org)
    body = {"model": f"orgs/my-org/models/{ARCH}/versions/1"}
    first = await send(member, DEPLOY, body, "d")
    world.woken.clear()
    again = await send(member, DEPLOY, body, "d")
    assert again.json() == first.json()
    assert await count(world, deployments.c.id) == 1
    assert world.woken == []


async def test_a_key_that_comes_with_another_request_is_refused(
    world: World, member: Caller
) -> None:
    await send(member, UPLOAD, BODY, "k")
    refused = await send(member, UPLOAD, {**BODY, "model_arch_id": "other"}, "k")
    assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_key_reused")
    assert refused.json()["param"] == "Idempotency-Key"
    assert await count(world, model_versions.c.id) == 1


async def test_while_the_first_request_is_under_way_the_second_is_told_to_wait(
    world: World, org: Org, member: Caller
) -> None:
    async with world.database.begin() as tx:
        assert await idempotency.hold(tx, org.id, "k")
        refused = await send(member, UPLOAD, BODY, "k")
    assert (refused.status_code, refused.json()["code"]) == (409, "request_in_flight")
    assert refused.headers["x-should-retry"] == "true"
    assert (await send(member, UPLOAD, BODY, "k")).status_code == 200


async def test_of_requests_sent_at_once_one_is_done(world: World, member: Caller) -> None:
    answers = await asyncio.gather(*(send(member, UPLOAD, BODY, "k") for _ in range(6)))
    assert {a.status_code for a in answers} <= {200, 409}
    assert await count(world, model_versions.c.id) == 1


async def test_a_refused_request_may_be_tried_again_with_its_key(
    world: World, member: Caller
) -> None:
    taken = {**BODY, "model": {**BODY["model"], "version_aliases": ["production"]}}
    await send(member, UPLOAD, taken, None)
    assert (await send(member, UPLOAD, taken, "k")).status_code == 409
    path = f"/management/v1/orgs/my-org/models/{ARCH}/versions/1"
    assert (await member("PATCH", path, {"version_aliases": []})).status_code == 200
    assert (await send(member, UPLOAD, taken, "k")).status_code == 200


async def test_a_key_is_an_orgs_own(world: World, member: Caller) -> None:
    other = await world.org("other")
    _, text = await world.key(KeyKind.MANAGEMENT, other)
    await send(member, UPLOAD, BODY, "k")
    answer = await send(Caller(world.client, text), UPLOAD.replace("my-org", "other"), BODY, "k")
    assert answer.json()["name"] == f"orgs/other/models/{ARCH}/versions/1"


async def test_after_a_day_a_key_is_as_good_as_new(world: World, member: Caller) -> None:
    await send(member, UPLOAD, BODY, "k")
    world.pass_time(idempotency.KEPT_S + 1)
    again = await send(member, UPLOAD, BODY, "k")
    assert again.json()["name"].endswith("/versions/2")
    assert (await send(member, UPLOAD, BODY, "k")).json() == again.json()


@pytest.mark.parametrize("key", ["", "x" * 256, "two words"])
async def test_a_key_that_is_none_is_refused(member: Caller, key: str) -> None:
    refused = await send(member, UPLOAD, BODY, key)
    assert (refused.status_code, refused.json()["code"]) == (400, "wrong_api_format")
