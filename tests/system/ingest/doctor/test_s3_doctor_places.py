"""The S3 doctor on places: misspelt, written otherwise, shared with others, bound to an org."""

import json
from datetime import UTC, datetime

import pytest
from doctor_stub import DENIED, EXTERNAL_ID, LIST, ROLE, SHARED, examine, step

from ingest_world import World
from s3_stub import Request, S3Stub
from weighbridge.accounts.model import Org
from weighbridge.clock import monotonic_s
from weighbridge.ingest.doctor.examine import Doctor
from weighbridge.ingest.model import S3Prefix
from weighbridge.ingest.s3.access import S3Access
from weighbridge.ingest.s3.policies import Reader

pytestmark = pytest.mark.system


@pytest.mark.parametrize(
    ("uri", "code", "suggestion"),
    [
        ("s3://acme/M", "PREFIX_NEAR_MISS", "s3://acme/m"),
        ("s3://acme/runs/suport-v1", "PREFIX_NEAR_MISS", "s3://acme/runs/support-v1"),
        ("s3://acme/runs/support", "PREFIX_NEAR_MISS", "s3://acme/runs/support-v1"),
        ("s3://acme/m/model.safetensors", "PREFIX_IS_OBJECT", "s3://acme/m"),
        ("s3://acme/runs", "WEIGHTS_IN_SUBFOLDER", "s3://acme/runs/support-v1"),
    ],
)
async def test_a_misspelt_prefix_gets_the_one_that_exists(
    uri: str, code: str, suggestion: str, world: World, stub: S3Stub
) -> None:
    stub.objects["runs/support-v1/model.safetensors"] = b"x"
    report = await examine(world, uri)
    assert step(report, "list").code == "EMPTY"
    assert (code, suggestion) in [(one.code, one.suggestion) for one in report.look_alikes]


@pytest.mark.parametrize(
    ("uri", "suggestion"),
    [
        ("arn:aws:s3:::acme/m", "s3://acme/m"),
        ("arn:aws:s3::acme/m/*", "s3://acme/m"),
        ("https://acme.s3.eu-west-1.amazonaws.com/m/", "s3://acme/m"),
        ("https://s3.amazonaws.com/acme/m?x=1", "s3://acme/m"),
        ("S3://acme/m", "s3://acme/m"),
    ],
)
async def test_another_way_to_write_the_place_gets_the_right_one(
    uri: str, suggestion: str, world: World, stub: S3Stub
) -> None:
    report = await examine(world, uri)
    assert (report.steps[0].name, report.ok) == ("uri", False)
    assert [one.suggestion for one in report.look_alikes] == [suggestion]
    assert stub.roles == []


async def test_the_shared_role_shows_nobody_what_lies_beside_the_folder(
    world: World, stub: S3Stub
) -> None:
    stub.objects["runs/secret-plan/model.safetensors"] = b"x"
    report = await examine(world, "s3://acme/runs/secret-pla", role=None)
    assert step(report, "list").code == "EMPTY"
    assert report.look_alikes == ()
    policy = json.loads(stub.roles[-1]["Policy"])["Statement"]
    allowed = policy[1]["Condition"]["StringLike"]["s3:prefix"]
    assert allowed == "runs/secret-pla/*"


async def test_a_bucket_of_another_org_is_not_touched_with_the_shared_role(
    world: World, stub: S3Stub
) -> None:
    await world.execute(
        "INSERT INTO orgs (id, name, s3_external_id, created_at) VALUES ('org_2', 'beta', 'x-2', now())"
    )
    await world.execute("INSERT INTO bucket_bindings VALUES ('acme', 'org_2', NULL, now())")
    report = await examine(world, role=None)
    assert [(one.name, one.code) for one in report.steps] == [("bucket", "BUCKET_BOUND")]
    assert stub.roles == []
    assert (await examine(world, role=ROLE)).ok


async def test_a_bucket_that_passed_is_bound_to_the_org(world: World, stub: S3Stub) -> None:
    def refuse_strangers(request: Request) -> tuple[int, str] | None:
        if request.operation != "ListObjectsV2":
            return None
        number = int(request.headers["X-Amz-Security-Token"].partition("-")[2])
        reader = Reader(S3Prefix("acme", "m"), SHARED, EXTERNAL_ID, shared=True)
        known = stub.roles[number - 1]["RoleSessionName"] == reader.session_name
        return None if known else DENIED

    stub.refusal = refuse_strangers
    await world.execute(
        "INSERT INTO orgs (id, name, s3_external_id, created_at) VALUES ('org_2', 'beta', 'x-2', now())"
    )
    assert (await examine(world, role=None)).ok
    doctor = Doctor(world.database, S3Access(world.settings), monotonic_s)
    other = Org("org_2", "beta", "x-2", None, datetime(2026, 1, 1, tzinfo=UTC))
    assert (await doctor.examine(other, "s3://acme/m", None)).steps[0].code == "BUCKET_BOUND"


async def test_statements_for_the_shared_role_let_only_this_orgs_sessions_in(
    world: World, stub: S3Stub
) -> None:
    stub.refusal = lambda r: DENIED if r.operation == "ListObjectsV2" else None
    failed = step(await examine(world, role=None), "list")
    name = Reader(S3Prefix("acme", "m"), SHARED, EXTERNAL_ID).session_name
    assert failed.statement == {
        **LIST,
        "Principal": {"AWS": SHARED},
        "Condition": {"StringLike": {"s3:prefix": "m/*", "aws:userid": f"*:{name}"}},
    }
    assert stub.roles[0]["RoleSessionName"] == name
