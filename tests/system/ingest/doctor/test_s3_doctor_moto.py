"""The S3 doctor against a real S3 server with authentication on, through the API and the client."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from ingest_world import BASE_CONFIG, SPECS, World, start_world
from s3 import READ_ACTIONS, S3Server, running_s3
from safetensors_files import safetensors_file
from weighbridge.accounts.model import Org
from weighbridge.clock import Clock, monotonic_s
from weighbridge.ingest.doctor.examine import Doctor
from weighbridge.ingest.doctor.model import Report
from weighbridge.ingest.s3.access import S3Access
from weighbridge.storage.database import Database
from weighbridge.weights.verdict import Wish

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with running_s3() as server:
        server.create_bucket("acme", versioned=True)
        server.put("acme", "good/model.safetensors", safetensors_file(SPECS))
        server.put("acme", "frozen/model.safetensors", b"x", StorageClass="GLACIER")
        yield server


@pytest.fixture
async def world(
    s3: S3Server, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    async with start_world(s3, database, tmp_path) as ready:
        yield ready


async def examine(
    world: World, uri: str, *, role: str, external_id: str | None = None, wish: Wish | None = None
) -> Report:
    org = Org("org_1", "acme", external_id or world.s3.external_id, role, Clock().now())
    return await Doctor(world.database, S3Access(world.settings), monotonic_s).examine(
        org, uri, wish
    )


def failed(report: Report) -> list[tuple[str, str | None]]:
    return [(step.name, step.code) for step in report.steps if not step.ok]


async def test_a_readable_folder_passes_and_is_judged(world: World, s3: S3Server) -> None:
    report = await examine(
        world, "s3://acme/good", role=s3.role_arn, wish=Wish("tiny", SPECS, BASE_CONFIG)
    )
    assert failed(report) == []
    assert report.ok
    # This server lets a missing external id pass, which is what the warning is for.
    assert [step.code for step in report.steps if step.code] == ["ROLE_OPEN"]
    assert report.verdict is not None
    assert report.verdict.tensors == len(SPECS)


async def test_a_wrong_external_id_is_the_roles_refusal(world: World, s3: S3Server) -> None:
    report = await examine(
        world, "s3://acme/good", role=s3.role_arn, external_id="wrong-id-of-ours"
    )
    assert failed(report) == [("role", "ROLE_ACCESS_DENIED")]
    statement = report.steps[0].statement
    assert statement is not None
    assert statement["Condition"] == {"StringEquals": {"sts:ExternalId": "wrong-id-of-ours"}}


@pytest.mark.parametrize(
    ("missing", "expected", "sid"),
    [
        ("s3:ListBucket", ("list", "LIST_ACCESS_DENIED"), "WeighbridgeList"),
        ("s3:GetObject", ("head", "GET_ACCESS_DENIED"), "WeighbridgeRead"),
    ],
)
async def test_a_missing_right_is_named_with_its_statement(
    missing: str, expected: tuple[str, str], sid: str, world: World, s3: S3Server
) -> None:
    actions = [action for action in READ_ACTIONS if action != missing]
    role = s3.create_role("without-" + missing.replace(":", "-"), actions)
    report = await examine(world, "s3://acme/good", role=role)
    assert failed(report)[0] == expected
    step = next(step for step in report.steps if step.name == expected[0])
    assert step.statement is not None
    assert step.statement["Sid"] == sid
    assert step.statement["Principal"] == {"AWS": role}
    assert json.dumps(step.statement)


async def test_missing_lesser_rights_are_warnings(world: World, s3: S3Server) -> None:
    role = s3.create_role("lesser", ["s3:GetObject", "s3:ListBucket"])
    report = await examine(world, "s3://acme/good", role=role)
    assert failed(report) == []
    codes = {step.name: step.code for step in report.steps}
    assert codes["region"] == "LOCATION_ACCESS_DENIED"


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("s3://no-such-bucket-here/m", ("region", "NO_SUCH_BUCKET")),
        ("s3://acme/frozen", ("head", "ARCHIVED")),
        ("s3://acme/gold", ("list", "EMPTY")),
    ],
)
async def test_what_lies_elsewhere_or_asleep_is_named(
    uri: str, expected: tuple[str, str], world: World, s3: S3Server
) -> None:
    report = await examine(world, uri, role=s3.role_arn)
    assert failed(report) == [expected]
    if uri.endswith("gold"):
        assert [one.suggestion for one in report.look_alikes] == ["s3://acme/good"]


async def test_examinations_side_by_side_do_not_disturb_each_other(
    world: World, s3: S3Server
) -> None:
    reports = await asyncio.gather(
        *(examine(world, uri, role=s3.role_arn) for uri in ("s3://acme/good", "s3://acme/gold"))
    )
    assert [report.ok for report in reports] == [True, False]
    async with world.database.begin() as tx:
        rows = await tx.execute(text("SELECT bucket, org_id, role_arn FROM bucket_bindings"))
        assert [tuple(row) for row in rows] == [("acme", "org_1", s3.role_arn)]
