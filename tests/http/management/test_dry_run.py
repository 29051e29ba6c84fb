"""A dry run of a deploy changes nothing, tells the steps, and refuses with the words of the real call."""

from datetime import timedelta

import pytest
from sqlalchemy import func, select

from control_world import ARCH, Caller, World
from weighbridge.accounts.model import Org
from weighbridge.registry.model import SyncStatus
from weighbridge.replicas.model import ReplicaState
from weighbridge.rollouts.model import RolloutStatus
from weighbridge.storage.tables import deployments, endpoints, metadata, model_versions, replicas

MODELS = "/management/v1/orgs/my-org/models"
DEPLOY = "/management/v1/endpoints/chat:deployModel"


def body(ref: object = 1, **more: object) -> dict[str, object]:
    return {"model": f"orgs/my-org/models/{ARCH}/versions/{ref}", **more}


async def upload(world: World, org: Org, member: Caller) -> None:
    upload_body = {"model_arch_id": ARCH, "model": {"weight_uri": "s3://my-bucket/w"}}
    answer = await member("POST", f"{MODELS}:upload", upload_body)
    number = answer.json()["name"].rpartition("/")[2]
    await world.end_sync(org, int(number))


@pytest.fixture
async def served(world: World, org: Org, member: Caller) -> str:
    """Endpoint `chat` with 2 replicas that serve version 1; version 2 is there to be deployed."""
    await world.create_endpoint("chat", org)
    await upload(world, org, member)
    await upload(world, org, member)
    deployment_id = str((await member("POST", DEPLOY, body())).json()["name"])
    async with world.database.begin() as tx:
        await tx.execute(
            deployments.update().values(status=RolloutStatus.DONE, finished_at=world.time)
        )
        await tx.execute(endpoints.update().values(base_deployment_id=deployment_id, replicas=2))
        await tx.execute(model_versions.update().values(bytes_total=1_000))
    for slot in range(2):
        await add_replica(world, deployment_id, slot, start_s=40, route_s=2)
    return deployment_id


async def add_replica(
    world: World, deployment_id: str, slot: int, *, start_s: float, route_s: float, **more: object
) -> None:
    async with world.database.begin() as tx:
        row = (await tx.execute(select(deployments).where(deployments.c.id == deployment_id))).one()
        ready_at = world.time + timedelta(seconds=start_s)
        values: dict[str, object] = {
            "id": f"r{slot}",
            "endpoint_id": "chat",
            "deployment_id": deployment_id,
            "version_id": row.version_id,
            "version_number": row.version_number,
            "digest": row.digest,
            "fingerprint": row.fingerprint,
            "settings_digest": row.settings_digest,
            "state": ReplicaState.READY,
            "slot": slot,
            "created_at": world.time,
            "state_since": ready_at,
            "ready_at": ready_at,
            "routed_at": ready_at + timedelta(seconds=route_s),
        }
        await tx.execute(replicas.insert().values({**values, **more}))


async def everything(world: World) -> dict[str, int]:
    async with world.database.begin() as tx:
        return {
            table.name: int(
                (await tx.execute(select(func.count()).select_from(table))).scalar_one()
            )
            for table in metadata.sorted_tables
        }


async def test_the_steps_the_floor_the_places_and_the_times_are_told(
    world: World, member: Caller, served: str
) -> None:
    drained = world.time + timedelta(seconds=500)
    await add_replica(
        world, served, 7, start_s=40, route_s=2, state=ReplicaState.STOPPED,
        drain_began_at=drained, state_since=drained + timedelta(seconds=30),
    )  # fmt: skip
    world.pass_time(3_600)
    before = await everything(world)
    world.woken.clear()
    answer = await member("POST", DEPLOY, body(2, dry_run=True))
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert [(s["step"], s["version_id"], s["replicas"]) for s in told["steps"]] == [
        ("start", 2, 1), ("route", 2, 1), ("drain", 1, 1), ("stop", 1, 1),
        ("start", 2, 1), ("route", 2, 1), ("drain", 1, 1), ("stop", 1, 1),
    ]  # fmt: skip
    limits = world.parts.settings
    at = [s["at_s"] for s in told["steps"]]
    available = max(40 + 2, 40 + limits.min_ready_s)
    assert at == [0, 42, available, available + 30, available + 30, available + 72, 2 * available + 30,
                  2 * available + 60]  # fmt: skip
    assert (told["ready_replicas"], told["lowest_ready_replicas"], told["peak_slots"]) == (2, 2, 3)
    assert (told["expected_status"], told["complete"], told["hold_needed"]) == ("done", True, False)
    assert (told["queued_behind"], told["base_version_id"], told["dry_run"]) == (0, 1, True)
    times = told["times"]
    assert times["history"] is True
    assert (times["replica_start_s"], times["replica_route_s"]) == (40, 2)
    assert (times["replica_drain_s"], times["samples"]) == (30, 3)
    assert times["takes_s"] == 2 * available + 30 + limits.bake_s
    assert told["weights"]["size_bytes"] == 1_000
    assert told["weights"]["disk_needed_bytes"] == 2_000
    assert told["weights"]["present"] is False
    assert await everything(world) == before
    assert world.woken == []


@pytest.mark.usefixtures("served")
async def test_without_history_no_time_is_told(world: World, member: Caller) -> None:
    async with world.database.begin() as tx:
        await tx.execute(replicas.delete())
    told = (await member("POST", DEPLOY, body(2, dry_run=True))).json()
    assert told["times"] == {
        "history": False,
        "samples": 0,
        "message": "No history: no replica of this endpoint has become ready in the last week.",
    }
    assert all("at_s" not in step for step in told["steps"])
    assert told["steps"]
    assert told["expected_status"] == "done"


@pytest.mark.usefixtures("served")
async def test_a_canary_is_foreseen_until_it_stands(world: World, member: Caller) -> None:
    world.pass_time(3_600)
    before = await everything(world)
    told = (await member("POST", DEPLOY, body(2, dry_run=True, traffic_percent=25))).json()
    assert [(s["step"], s["version_id"], s["replicas"]) for s in told["steps"]] == [
        ("start", 2, 1), ("route", 2, 1), ("drain", 1, 1), ("stop", 1, 1),
    ]  # fmt: skip
    assert told["share"] == {"traffic_percent": 25, "replicas": 1, "base_replicas": 1}
    assert (told["expected_status"], told["complete"]) == ("in_progress", True)
    assert "until it is promoted" in told["reason"]
    assert (told["lowest_ready_replicas"], told["peak_slots"]) == (2, 3)
    assert told["times"]["takes_s"] > 42
    assert "promoted or cancelled" in told["times"]["message"]
    assert await everything(world) == before


@pytest.mark.usefixtures("served")
async def test_a_canary_without_room_is_refused_on_paper_as_in_earnest(
    world: World, member: Caller
) -> None:
    async with world.database.begin() as tx:
        await tx.execute(
            endpoints.update().values(
                replicas=1, max_unavailable=1, max_surge=0, allow_downtime=True
            )
        )
    dry = await member("POST", DEPLOY, body(2, dry_run=True, traffic_percent=25))
    real = await member("POST", DEPLOY, body(2, traffic_percent=25))
    assert (dry.status_code, dry.json()["code"]) == (409, "canary_impossible")
    assert (real.status_code, real.json()) == (dry.status_code, dry.json())


@pytest.mark.usefixtures("served")
async def test_those_queued_before_it_are_counted_and_waited_for(
    world: World, member: Caller
) -> None:
    world.pass_time(3_600)
    await member("POST", DEPLOY, body(2))
    told = (await member("POST", DEPLOY, body(1, dry_run=True))).json()
    assert told["queued_behind"] == 1
    assert told["times"]["starts_in_s"] > 80
    assert [s["version_id"] for s in told["steps"] if s["step"] == "start"] == [1, 1]


@pytest.mark.usefixtures("served")
async def test_what_runs_already_is_adopted(world: World, member: Caller) -> None:
    """R17"""
    world.pass_time(3_600)
    told = (await member("POST", DEPLOY, body(1, dry_run=True))).json()
    assert [(s["step"], s["replicas"]) for s in told["steps"]] == [("adopt", 2)]


@pytest.mark.usefixtures("served")
async def test_a_single_replica_without_a_spare_place_needs_the_hold(
    world: World, org: Org, member: Caller
) -> None:
    world.pass_time(3_600)
    async with world.database.begin() as tx:
        await tx.execute(
            endpoints.update().values(
                replicas=1, max_unavailable=1, max_surge=0, allow_downtime=True
            )
        )
        await tx.execute(replicas.delete().where(replicas.c.id == "r1"))
    told = (await member("POST", DEPLOY, body(2, dry_run=True))).json()
    assert told["hold_needed"] is True
    assert told["lowest_ready_replicas"] == 0
    assert told["gap_s"] >= 42


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize(
    ("case", "status", "code"),
    [
        ("absent version", 404, "model_version_not_found"),
        ("other org", 404, "not_found"),
        ("other architecture", 400, "model_architecture_mismatch"),
        ("not synced", 409, "version_not_done"),
        ("full queue", 429, "deployment_queue_full"),
        ("no name", 400, "invalid_version_name"),
    ],
)
async def test_a_refusal_is_that_of_the_real_call(
    *, world: World, org: Org, member: Caller, case: str, status: int, code: str
) -> None:
    model = {
        "absent version": f"orgs/my-org/models/{ARCH}/versions/9",
        "other org": f"orgs/stranger/models/{ARCH}/versions/1",
        "other architecture": "orgs/my-org/models/other/versions/1",
        "no name": "nonsense",
    }.get(case, f"orgs/my-org/models/{ARCH}/versions/2")
    if case == "not synced":
        await world.end_sync(org, 2, SyncStatus.ERROR)
        async with world.database.begin() as tx:
            await tx.execute(model_versions.update().values(manifest_digest=None, status="error"))
    if case == "full queue":
        for _ in range(world.parts.settings.deployment_queue_max):
            assert (await member("POST", DEPLOY, body(1))).status_code == 200
    dry = await member("POST", DEPLOY, {"model": model, "dry_run": True})
    real = await member("POST", DEPLOY, {"model": model})
    assert (dry.status_code, dry.json()["code"]) == (status, code), dry.text
    assert (real.status_code, real.json()) == (dry.status_code, dry.json())


@pytest.mark.usefixtures("served")
async def test_an_org_tries_on_paper_only_so_often(member: Caller) -> None:
    seen = [(await member("POST", DEPLOY, body(2, dry_run=True))).status_code for _ in range(31)]
    assert seen == [200] * 30 + [429]
