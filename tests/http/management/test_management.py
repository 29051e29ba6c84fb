"""The nine calls of the management API: paths, members, words and order, as the hosted service sends them."""

import asyncio

import pytest
from sqlalchemy import update

from control_world import ARCH, Caller, World, new_world
from weighbridge.accounts.model import KeyKind, Org
from weighbridge.registry.model import SyncStatus
from weighbridge.rollouts.model import RolloutStatus
from weighbridge.storage.tables import deployments, endpoints

MODELS = "/management/v1/orgs/my-org/models"
VERSIONS = f"{MODELS}/{ARCH}/versions"
URI = "s3://my-bucket/model-weights"
PROGRESS = {"step": "", "bytes_total": 0, "bytes_done": 0, "files_total": 0, "files_done": 0}


def upload_body(*aliases: str, **model: object) -> dict[str, object]:
    return {
        "model_arch_id": ARCH,
        "model": {"weight_uri": URI, "version_aliases": list(aliases), **model},
    }


async def upload(member: Caller, *aliases: str) -> str:
    answer = await member("POST", f"{MODELS}:upload", upload_body(*aliases))
    assert answer.status_code == 200, answer.text
    return str(answer.json()["name"])


@pytest.fixture
async def endpoint(world: World, org: Org) -> str:
    await world.create_endpoint("my-org-llama", org)
    return "/management/v1/endpoints/my-org-llama"


async def deploy(member: Caller, endpoint: str, ref: object = 1) -> dict[str, object]:
    name = f"orgs/my-org/models/{ARCH}/versions/{ref}"
    answer = await member("POST", f"{endpoint}:deployModel", {"model": name})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def test_architectures_are_listed_as_plain_strings(world: World, member: Caller) -> None:
    await world.architecture("zai-glm-4.7")
    answer = await member("GET", MODELS)
    assert (answer.status_code, answer.json()) == (
        200,
        {"model_architectures": [ARCH, "zai-glm-4.7"]},
    )


async def test_an_upload_answers_at_once_with_the_queued_version(
    world: World, member: Caller
) -> None:
    answer = await member(
        "POST",
        f"{MODELS}:upload",
        upload_body("production", "v1-stable", system_fingerprint_suffix="sfx"),
    )
    assert answer.status_code == 200
    assert answer.json() == {
        "name": f"orgs/my-org/models/{ARCH}/versions/1",
        "done": False,
        "response": {
            "customer_s3_uri": URI,
            "version_aliases": ["production", "v1-stable"],
            "sync_status": "queued",
            "system_fingerprint_suffix": "sfx",
            "progress": PROGRESS,
        },
    }
    assert world.woken == ["ingest"]


async def test_optional_members_of_an_upload_may_be_left_out_or_null(member: Caller) -> None:
    body = {"model_arch_id": ARCH, "model": {"weight_uri": URI, "system_fingerprint_suffix": None}}
    answer = await member("POST", f"{MODELS}:upload", body)
    assert answer.json()["response"] == {
        "customer_s3_uri": URI, "version_aliases": [], "sync_status": "queued", "progress": PROGRESS,
    }  # fmt: skip


@pytest.mark.parametrize("path", [f"{MODELS}%3Aupload", f"{MODELS}:upload/", f"{MODELS}%3aupload/"])
async def test_the_colon_may_be_encoded_and_the_path_may_end_in_a_slash(
    member: Caller, path: str
) -> None:
    assert (await member("POST", path, upload_body())).status_code == 200


async def test_a_version_is_found_by_number_and_by_alias(
    world: World, org: Org, member: Caller
) -> None:
    await upload(member, "production")
    await world.end_sync(org, 1)
    by_number = await member("GET", f"{VERSIONS}/1")
    by_alias = await member("GET", f"{VERSIONS}/production/")
    assert by_number.json() == by_alias.json()
    assert by_number.json()["done"] is True
    assert by_number.json()["response"]["sync_status"] == "done"
    assert by_number.json()["response"]["digest"] == f"{1:064x}"


async def test_versions_are_listed_by_number(member: Caller) -> None:
    for _ in range(3):
        await upload(member)
    listed = (await member("GET", VERSIONS)).json()["model_versions"]
    assert [item["name"].rpartition("/")[2] for item in listed] == ["1", "2", "3"]
    assert listed[0] == (await member("GET", f"{VERSIONS}/1")).json()


@pytest.mark.parametrize(("vocabulary", "word"), [("enum", "error"), ("example", "failed")])
async def test_a_failed_sync_is_done_and_says_why(
    world: World, org: Org, member: Caller, vocabulary: str, word: str
) -> None:
    await upload(member)
    await world.end_sync(org, 1, SyncStatus.ERROR)
    other = new_world(world.database, world.parts.settings.data_dir, state_vocabulary=vocabulary)
    answer = (await Caller(other.client, member.key)("GET", f"{VERSIONS}/1")).json()
    assert answer["done"] is True
    assert answer["response"]["sync_status"] == word
    assert answer["response"]["error_code"] == "no_access"
    assert answer["response"]["error_message"] == "Access was denied."


async def test_aliases_are_replaced_as_a_set_and_an_empty_list_clears(member: Caller) -> None:
    await upload(member, "production")
    answer = await member(
        "PATCH", f"{VERSIONS}/production", {"version_aliases": ["latest", "v1-stable"]}
    )
    assert (answer.status_code, answer.json()) == (
        200,
        {
            "name": f"orgs/my-org/models/{ARCH}/versions/1",
            "version_aliases": ["latest", "v1-stable"],
        },
    )
    assert (await member("GET", f"{VERSIONS}/production")).status_code == 404
    answer = await member("PATCH", f"{VERSIONS}/1", {"version_aliases": []})
    assert answer.json()["version_aliases"] == []


async def test_a_deleted_version_is_gone_and_its_number_is_not_given_again(
    world: World, member: Caller
) -> None:
    name = await upload(member, "production")
    world.woken.clear()
    answer = await member("DELETE", f"{VERSIONS}/production")
    assert answer.json() == {
        "name": name,
        "deleted": True,
        "message": f"Model version {name} deleted",
    }
    assert answer.status_code == 200
    assert world.woken == ["ingest"]
    assert (await member("GET", f"{VERSIONS}/1")).status_code == 404
    assert (await member("GET", VERSIONS)).json() == {"model_versions": []}
    assert (await upload(member, "production")).endswith("/2")


async def test_endpoints_of_the_org_are_listed(
    world: World, org: Org, member: Caller, endpoint: str
) -> None:
    await world.create_endpoint("theirs", await world.org("other"))
    answer = await member("GET", "/management/v1/orgs/my-org/endpoints")
    assert (answer.status_code, answer.json()) == (
        200,
        {
            "endpoints": [
                {
                    "endpoint_id": "my-org-llama", "model_arch_id": ARCH, "created": 1768176000,
                    "updated": 1768176000, "org_name": "my-org",
                }
            ]
        },
    )  # fmt: skip


async def test_a_deploy_answers_with_the_deployment_and_the_number_an_alias_stood_for(
    world: World, org: Org, member: Caller, endpoint: str
) -> None:
    await upload(member)
    await upload(member, "production")
    await world.end_sync(org, "production")
    world.woken.clear()
    world.pass_time(60)
    answer = await deploy(member, endpoint, "production")
    assert answer == {
        "name": answer["name"],
        "done": False,
        "response": {
            "deployment_id": answer["name"],
            "endpoint_id": "my-org-llama",
            "org_name": "my-org",
            "model_arch_id": ARCH,
            "version_id": 2,
            "created": 1768176060,
            "updated": 1768176060,
            "rollout_status": "not_started",
        },
    }
    assert world.woken == ["rollouts", "replicas"]


async def test_an_endpoint_shows_the_deployment_by_its_id_and_the_callers_own_word(
    world: World, org: Org, member: Caller, endpoint: str
) -> None:
    await upload(member, "production")
    await world.end_sync(org, 1)
    empty = (await member("GET", endpoint)).json()
    assert empty == {
        "name": "my-org-llama", "model_arch_id": ARCH, "replicas": 1, "deployed_models": [],
        "managing_org_name": "my-org", "created": 1768176000, "updated": 1768176000,
    }  # fmt: skip
    first = (await deploy(member, endpoint, 1))["name"]
    second = (await deploy(member, endpoint, "production"))["name"]
    # The alias moves on; the deployment keeps what it was told.
    await member("PATCH", f"{VERSIONS}/1", {"version_aliases": ["retired"]})
    shown = (await member("GET", endpoint)).json()["deployed_models"]
    assert [model["id"] for model in shown] == [first, second]
    assert [model["version_alias"] for model in shown] == ["1", "production"]
    assert {model["model"] for model in shown} == {f"orgs/my-org/models/{ARCH}/versions/1"}
    assert {model["state"] for model in shown} == {"not_started"}
    assert "error_message" not in shown[0]


async def end_deployment(world: World, deployment_id: object, status: RolloutStatus) -> None:
    """What the rollouts reconciler would record at the end."""
    async with world.database.begin() as tx:
        await tx.execute(
            deployments.update()
            .where(deployments.c.id == deployment_id)
            .values(
                status=status,
                finished_at=world.time,
                error_message="boom" if status == "error" else None,
            )
        )
        if status is RolloutStatus.DONE:
            await tx.execute(endpoints.update().values(base_deployment_id=deployment_id))


async def test_deployed_models_are_in_flight_first_then_the_serving_one_then_history(
    world: World, org: Org, member: Caller, endpoint: str
) -> None:
    await upload(member)
    await world.end_sync(org, 1)
    ids = []
    for status in (RolloutStatus.DONE, RolloutStatus.DONE, RolloutStatus.ERROR, None):
        world.pass_time(60)
        ids.append((await deploy(member, endpoint))["name"])
        if status is not None:
            await end_deployment(world, ids[-1], status)
    oldest, serving, failed, in_flight = ids
    shown = (await member("GET", endpoint)).json()["deployed_models"]
    assert [model["id"] for model in shown] == [in_flight, serving, failed, oldest]


@pytest.mark.parametrize(
    ("vocabulary", "done", "error"), [("enum", "done", "error"), ("example", "complete", "failed")]
)
async def test_final_states_are_worded_as_the_setting_says_and_rollout_status_always_as_the_enum(
    *, world: World, org: Org, member: Caller, endpoint: str, vocabulary: str, done: str, error: str
) -> None:
    await upload(member)
    await world.end_sync(org, 1)
    await end_deployment(world, (await deploy(member, endpoint))["name"], RolloutStatus.DONE)
    await end_deployment(world, (await deploy(member, endpoint))["name"], RolloutStatus.ERROR)
    other = new_world(world.database, world.parts.settings.data_dir, state_vocabulary=vocabulary)
    shown = (await Caller(other.client, member.key)("GET", endpoint)).json()["deployed_models"]
    assert [model["state"] for model in shown] == [done, error]
    assert [model["rollout_status"] for model in shown] == ["done", "error"]
    assert shown[1]["error_message"] == "boom"


async def test_a_deployment_can_be_asked_for_and_cancelled_by_id(
    world: World, org: Org, member: Caller, endpoint: str
) -> None:
    await upload(member)
    await world.end_sync(org, 1)
    deployment_id = (await deploy(member, endpoint))["name"]
    path = f"/management/v1/deployments/{deployment_id}"
    shown = await member("GET", path)
    assert (shown.json()["endpoint_id"], shown.json()["state"]) == ("my-org-llama", "not_started")
    world.woken.clear()
    cancelled = await member("POST", f"{path}:cancel")
    assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
    assert world.woken == ["rollouts", "replicas"]
    again = await member("POST", f"{path}:cancel")
    assert (again.status_code, again.json()["state"]) == (200, "cancelled")


async def test_a_canary_is_asked_for_shown_and_promoted(
    world: World, org: Org, member: Caller, endpoint: str
) -> None:
    for number in (1, 2):
        await upload(member)
        await world.end_sync(org, number)
    await end_deployment(world, (await deploy(member, endpoint, 1))["name"], RolloutStatus.DONE)
    body = {"model": f"orgs/my-org/models/{ARCH}/versions/2"}
    for percent in (0, 100, 1.5, "5"):
        refused = await member(
            "POST", f"{endpoint}:deployModel", body | {"traffic_percent": percent}
        )
        assert refused.status_code == 400
    made = await member("POST", f"{endpoint}:deployModel", body | {"traffic_percent": 5})
    path = f"/management/v1/deployments/{made.json()['name']}"
    assert (await member("GET", path)).json()["traffic_percent"] == 5
    receipt = (await member("GET", f"{path}/receipt")).json()
    assert receipt["entries"][0]["payload"]["traffic_percent"] == 5
    refused = await member("POST", f"{path}:promote")
    assert (refused.status_code, refused.json()["code"]) == (409, "deployment_not_promotable")
    async with world.database.begin() as tx:
        await tx.execute(
            update(deployments)
            .where(deployments.c.id == made.json()["name"])
            .values(status="in_progress")
        )
    world.woken.clear()
    promoted = await member("POST", f"{path}:promote")
    assert (promoted.status_code, "traffic_percent" in promoted.json()) == (200, False)
    assert world.woken == ["rollouts", "replicas", "routes"]


async def test_a_rollback_deploys_the_version_served_before(
    world: World, org: Org, member: Caller, endpoint: str
) -> None:
    for number in (1, 2):
        await upload(member)
        await world.end_sync(org, number)
        await end_deployment(
            world, (await deploy(member, endpoint, number))["name"], RolloutStatus.DONE
        )
    answer = await member("POST", f"{endpoint}:rollback")
    assert (answer.status_code, answer.json()["response"]["version_id"]) == (200, 1)


async def test_twenty_uploads_at_once_over_http_get_the_numbers_1_to_20(member: Caller) -> None:
    names = await asyncio.gather(*(upload(member) for _ in range(20)))
    assert sorted(int(name.rpartition("/")[2]) for name in names) == list(range(1, 21))


async def test_of_a_deploy_and_a_delete_at_once_exactly_one_wins(
    world: World, org: Org, member: Caller, endpoint: str
) -> None:
    """V6: there is no moment between the check and the tombstone for a deployment to slip into."""
    outcomes = set()
    for number in range(1, 11):
        await upload(member)
        await world.end_sync(org, number)
        name = {"model": f"orgs/my-org/models/{ARCH}/versions/{number}"}
        deployed, deleted = await asyncio.gather(
            member("POST", f"{endpoint}:deployModel", name),
            member("DELETE", f"{VERSIONS}/{number}"),
        )
        outcomes.add((deployed.status_code, deleted.status_code))
    assert outcomes <= {(200, 409), (404, 200)}


async def test_a_key_of_both_kinds_manages_too(world: World, org: Org) -> None:
    _, text = await world.key(KeyKind.BOTH, org)
    assert (await Caller(world.client, text)("GET", MODELS)).status_code == 200
