"""Deployments are listed in pages and followed by id; an endpoint is scaled by its org as far as it may be."""

from dataclasses import replace

import pytest

from control_world import ARCH, Caller, World
from weighbridge.accounts.model import Org
from weighbridge.rollouts.model import RolloutStatus
from weighbridge.runtimes.base import Resources
from weighbridge.storage.tables import deployments, replicas

MODELS = "/management/v1/orgs/my-org/models"
DEPLOYMENTS = "/management/v1/deployments"
ENDPOINT = "/management/v1/endpoints/chat"


@pytest.fixture
async def endpoint(world: World, org: Org, member: Caller) -> None:
    """Endpoint `chat` and a synced version 1."""
    await world.create_endpoint("chat", org)
    body = {"model_arch_id": ARCH, "model": {"weight_uri": "s3://my-bucket/w"}}
    await member("POST", f"{MODELS}:upload", body)
    await world.end_sync(org, 1)


async def deploy(member: Caller, endpoint_id: str = "chat") -> str:
    body = {"model": f"orgs/my-org/models/{ARCH}/versions/1"}
    answer = await member("POST", f"/management/v1/endpoints/{endpoint_id}:deployModel", body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["name"])


async def set_status(
    world: World, deployment_id: str, status: RolloutStatus, **more: object
) -> None:
    async with world.database.begin() as tx:
        row = deployments.c.id == deployment_id
        await tx.execute(deployments.update().where(row).values(status=status, **more))


async def listed(member: Caller, query: str = "") -> list[str]:
    answer = await member("GET", f"{DEPLOYMENTS}{query}")
    assert answer.status_code == 200, answer.text
    return [one["id"] for one in answer.json()["deployments"]]


@pytest.mark.usefixtures("endpoint")
async def test_what_no_living_node_could_ever_hold_is_refused_and_leaves_nothing(
    world: World, member: Caller
) -> None:
    (node,) = world.runtime.nodes
    world.runtime.nodes[:] = [replace(node, total=Resources(cpus=0.5))]
    path, body = f"{ENDPOINT}:deployModel", {"model": f"orgs/my-org/models/{ARCH}/versions/1"}
    answer = await member("POST", path, body)
    assert (answer.status_code, answer.json()["code"]) == (409, "does_not_fit")
    assert (
        "a replica needs 1 CPU; no node offers that (node-1: 0.5 CPU)" in answer.json()["message"]
    )
    assert await listed(member) == []
    absent = await member("POST", f"{ENDPOINT}-2:deployModel", body)
    assert absent.status_code == 404
    world.runtime.away = True  # what is not known refuses nothing
    assert (await member("POST", path, body)).status_code == 200


@pytest.mark.usefixtures("endpoint")
async def test_deployments_are_listed_newest_first_by_endpoint_and_status(
    world: World, org: Org, member: Caller
) -> None:
    await world.create_endpoint("other", org)
    first, second = await deploy(member), await deploy(member)
    elsewhere = await deploy(member, "other")
    await set_status(world, first, RolloutStatus.DONE)
    assert await listed(member) == [elsewhere, second, first]
    assert await listed(member, "?endpoint_id=chat") == [second, first]
    assert await listed(member, "?status=done") == [first]
    assert await listed(member, "?endpoint_id=chat&status=done&status=not_started") == [
        second,
        first,
    ]
    assert await listed(member, "?endpoint_id=other&status=error") == []


@pytest.mark.usefixtures("endpoint")
async def test_pages_of_deployments_join_without_gap_while_new_ones_come(
    world: World, member: Caller
) -> None:
    made = [await deploy(member) for _ in range(5)]
    page = (await member("GET", f"{DEPLOYMENTS}?page_size=2")).json()
    seen = [one["id"] for one in page["deployments"]]
    await deploy(member)
    while token := page.get("next_page_token"):
        page = (await member("GET", f"{DEPLOYMENTS}?page_size=2&page_token={token}")).json()
        seen += [one["id"] for one in page["deployments"]]
    assert seen == made[::-1]


@pytest.mark.usefixtures("endpoint")
@pytest.mark.parametrize(
    ("query", "status", "param"),
    [
        ("page_size=0", 400, "page_size"),
        ("page_size=201", 400, "page_size"),
        ("page_token=x", 400, "page_token"),
        ("page_token=00000000-0000-4000-8000-000000000000", 400, "page_token"),
        ("status=complete", 400, "status"),
        ("endpoint_id=absent", 404, "endpoint_id"),
    ],
)
async def test_what_cannot_be_listed_is_refused_by_name(
    member: Caller, query: str, status: int, param: str
) -> None:
    answer = await member("GET", f"{DEPLOYMENTS}?{query}")
    assert answer.status_code == status, answer.text
    assert param in str(answer.json()["param"]) + answer.json()["message"]


@pytest.mark.usefixtures("endpoint")
async def test_another_orgs_page_token_is_none(world: World, member: Caller) -> None:
    from weighbridge.accounts.model import KeyKind

    deployment_id = await deploy(member)
    _, text = await world.key(KeyKind.MANAGEMENT, await world.org("stranger"))
    stranger = Caller(world.client, text)
    assert await listed(stranger) == []
    answer = await stranger("GET", f"{DEPLOYMENTS}?page_token={deployment_id}")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_page_token")


@pytest.mark.usefixtures("endpoint")
async def test_a_deployment_shows_the_replicas_of_its_endpoint_by_version_and_state(
    world: World, org: Org, member: Caller
) -> None:
    base, target = await deploy(member), await deploy(member)
    await set_status(world, base, RolloutStatus.DONE)
    await set_status(
        world,
        target,
        RolloutStatus.IN_PROGRESS,
        base_deployment_id=base,
        started_at=world.time,
    )
    version = await world.end_sync(org, 1)
    states = ["ready", "ready", "starting", "stopped", "draining"]
    async with world.database.begin() as tx:
        for slot, state in enumerate(states):
            await tx.execute(
                replicas.insert().values(
                    id=f"r{slot}", endpoint_id="chat", deployment_id=target, version_id=version.id,
                    version_number=1, digest="d", fingerprint="f", state=state, slot=slot,
                    created_at=world.time, state_since=world.time,
                )
            )  # fmt: skip
    shown = (await member("GET", f"{DEPLOYMENTS}/{target}")).json()
    assert shown["replicas"] == [
        {"version_id": 1, "state": "draining", "count": 1},
        {"version_id": 1, "state": "ready", "count": 2},
        {"version_id": 1, "state": "starting", "count": 1},
    ]
    assert (shown["base_version_id"], shown["started"]) == (1, int(world.time.timestamp()))
    assert "finished" not in shown


async def allow(operator: Caller, replicas_max: int | None, **more: object) -> None:
    body = {"replicas_max": replicas_max, **more}
    answer = await operator("PATCH", "/admin/v1/endpoints/chat", body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["replicas_max"] == replicas_max


@pytest.mark.usefixtures("endpoint")
async def test_scaling_is_the_operators_alone_until_he_allows_it(
    world: World, member: Caller, operator: Caller
) -> None:
    refused = await member("POST", f"{ENDPOINT}:scale", {"replicas": 2})
    assert (refused.status_code, refused.json()["code"]) == (403, "scaling_not_allowed")
    assert "replicas_max" in refused.json()["message"]
    await allow(operator, 4)
    world.woken.clear()
    answer = await member("POST", f"{ENDPOINT}:scale", {"replicas": 3})
    assert answer.status_code == 200
    assert answer.json() == {
        "endpoint_id": "chat",
        "replicas": 3,
        "previous_replicas": 1,
        "replicas_max": 4,
        "applies": "now",
        "message": "The endpoint goes to 3 replicas now; what leaves finishes its requests first.",
    }
    assert world.woken == ["rollouts", "replicas"]
    shown = (await member("GET", ENDPOINT)).json()
    assert (shown["replicas"], shown["replicas_max"]) == (3, 4)
    await allow(operator, None)
    again = await member("POST", f"{ENDPOINT}:scale", {"replicas": 2})
    assert again.json()["code"] == "scaling_not_allowed"


@pytest.mark.usefixtures("endpoint")
@pytest.mark.parametrize("wanted", [0, -1, 5, 10**6, True, 1.5, None, "2"])
async def test_scaling_beyond_the_maximum_or_to_nothing_is_refused(
    member: Caller, operator: Caller, wanted: object
) -> None:
    await allow(operator, 4)
    answer = await member("POST", f"{ENDPOINT}:scale", {"replicas": wanted})
    assert answer.status_code == 400, answer.text
    assert (await member("GET", ENDPOINT)).json()["replicas"] == 1


@pytest.mark.usefixtures("endpoint")
async def test_scaling_to_a_number_that_a_rollout_might_stop_altogether_is_refused(
    member: Caller, operator: Caller
) -> None:
    """R4"""
    await allow(operator, 8, replicas=4, max_unavailable=2)
    answer = await member("POST", f"{ENDPOINT}:scale", {"replicas": 2})
    assert (answer.status_code, answer.json()["code"]) == (400, "impossible_rollout")
    assert "at least 3" in answer.json()["message"]
    assert (await member("POST", f"{ENDPOINT}:scale", {"replicas": 3})).status_code == 200


@pytest.mark.usefixtures("endpoint")
async def test_scaling_says_when_it_applies_while_deployments_are_on(
    world: World, member: Caller, operator: Caller
) -> None:
    """R18"""
    await allow(operator, 8)
    active = await deploy(member)
    waiting = (await member("POST", f"{ENDPOINT}:scale", {"replicas": 2})).json()
    assert (waiting["applies"], waiting["deployment_id"]) == ("with_deployment", active)
    await set_status(world, active, RolloutStatus.IN_PROGRESS, replicas=2)
    await deploy(member)
    later = (await member("POST", f"{ENDPOINT}:scale", {"replicas": 5})).json()
    assert (later["applies"], later["deployment_id"]) == ("after_deployment", active)
    assert "keeps the 2 it began with" in later["message"]
    refused = await member("POST", f"{ENDPOINT}:scale", {"replicas": 1})
    assert (refused.status_code, refused.json()["code"]) == (409, "deployment_in_progress")


@pytest.mark.usefixtures("endpoint")
async def test_an_operator_gives_a_maximum_within_bounds_only(operator: Caller) -> None:
    for bad in (0, -1, 2000):
        answer = await operator("PATCH", "/admin/v1/endpoints/chat", {"replicas_max": bad})
        assert (answer.status_code, answer.json()["param"]) == (400, "replicas_max")
    await allow(operator, 1024)
    kept = await operator("PATCH", "/admin/v1/endpoints/chat", {"max_surge": 2})
    assert kept.json()["replicas_max"] == 1024


@pytest.mark.usefixtures("endpoint")
async def test_a_forced_drain_brings_a_deadline_forward_and_never_puts_it_off(
    world: World, member: Caller
) -> None:
    path = f"{ENDPOINT}:forceDrain"
    told = (await member("POST", path, {})).json()
    assert (told["replicas"], told["message"]) == ([], "No replica of this endpoint drains now.")
    made_for = await deploy(member)
    async with world.database.begin() as tx:
        version = (await tx.execute(deployments.select())).one()
        for slot, state in enumerate(("draining", "ready")):
            values = {
                "id": f"r{slot}", "endpoint_id": "chat", "deployment_id": made_for, "version_id": version.version_id,
                "version_number": 1, "digest": version.digest, "fingerprint": "fp_1", "state": state, "slot": slot,
                "created_at": world.time, "state_since": world.time,
            }  # fmt: skip
            await tx.execute(replicas.insert().values(**values))
    world.woken.clear()
    now_s = int(world.time.timestamp())
    for after_s, deadline_s in ((60, now_s + 60), (5.5, now_s + 5), (3_600, now_s + 5)):
        told = (await member("POST", path, {"after_s": after_s})).json()
        assert told["replicas"] == [{"replica_id": "r0", "version_id": 1, "deadline": deadline_s}]
        assert told["message"].startswith("1 replica will end")
    assert "replicas" in world.woken
    for wrong in (-1, 3_601, "1", None):
        assert (await member("POST", path, {"after_s": wrong})).status_code == 400
