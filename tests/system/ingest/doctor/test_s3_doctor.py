"""The S3 doctor names each cause and the exact statement that mends it; a stub shows what a real server cannot."""

import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ingest_world import BASE_CONFIG, SPECS, World, start_world
from s3_stub import Request, S3Stub, running_stub
from safetensors_files import safetensors_file
from weighbridge.accounts.model import Org
from weighbridge.clock import monotonic_s
from weighbridge.ingest.doctor import asking as asking_module
from weighbridge.ingest.doctor.examine import Doctor
from weighbridge.ingest.doctor.model import Report, Step
from weighbridge.ingest.model import S3Prefix
from weighbridge.ingest.s3.access import S3Access
from weighbridge.ingest.s3.policies import WRONG_EXTERNAL_ID, Reader
from weighbridge.storage.database import Database
from weighbridge.weights.tensors import TensorSpec
from weighbridge.weights.verdict import Wish

pytestmark = pytest.mark.system

KEY = "m/model.safetensors"
ROLE = "arn:aws:iam::999999999999:role/own"
SHARED = "arn:aws:iam::123456789012:role/reader"
EXTERNAL_ID = "external-id-of-acme"
SERVER = "arn:aws:iam::210987654321:role/weighbridge"
KMS_KEY = "arn:aws:kms:eu-west-1:999999999999:key/k1"
WISH = Wish("tiny", SPECS, BASE_CONFIG)
PASSED = ["role", "external_id", "region", "list", "head", "first_byte", "version_read"]

TRUST = {
    "Sid": "WeighbridgeAssume",
    "Effect": "Allow",
    "Principal": {"AWS": SERVER},
    "Action": "sts:AssumeRole",
    "Condition": {"StringEquals": {"sts:ExternalId": EXTERNAL_ID}},
}
LIST = {
    "Sid": "WeighbridgeList",
    "Effect": "Allow",
    "Principal": {"AWS": ROLE},
    "Action": "s3:ListBucket",
    "Resource": "arn:aws:s3:::acme",
    "Condition": {"StringLike": {"s3:prefix": "m/*"}},
}
READ = {
    "Sid": "WeighbridgeRead",
    "Effect": "Allow",
    "Principal": {"AWS": ROLE},
    "Action": ["s3:GetObject", "s3:GetObjectVersion"],
    "Resource": "arn:aws:s3:::acme/m/*",
}
LOCATION = {
    "Sid": "WeighbridgeLocation",
    "Effect": "Allow",
    "Principal": {"AWS": ROLE},
    "Action": "s3:GetBucketLocation",
    "Resource": "arn:aws:s3:::acme",
}
DECRYPT = {
    "Sid": "WeighbridgeDecrypt",
    "Effect": "Allow",
    "Principal": {"AWS": ROLE},
    "Action": "kms:Decrypt",
    "Resource": "*",
}
DENIED = (403, "AccessDenied: Access Denied")
Refusal = Callable[[Request], tuple[int, str] | None]


class _Stubbed:
    def __init__(self, stub: S3Stub) -> None:
        self.endpoint_url = stub.endpoint_url
        self.role_arn = SHARED
        self.external_id = EXTERNAL_ID


def strict_role(request: Request) -> tuple[int, str] | None:
    """A role whose trust policy is right."""
    if request.operation == "AssumeRole" and request.form.get("ExternalId") != EXTERNAL_ID:
        return DENIED
    return None


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Stub]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "own")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "own-secret")
    with running_stub() as server:
        server.objects[KEY] = safetensors_file(SPECS)
        server.refusal = strict_role
        yield server


@pytest.fixture
async def world(stub: S3Stub, database: Database, tmp_path: Path) -> AsyncIterator[World]:
    async with start_world(_Stubbed(stub), database, tmp_path) as ready:
        yield ready


async def examine(
    world: World, uri: str = "s3://acme/m", *, role: str | None = ROLE, wish: Wish | None = None
) -> Report:
    org = Org("org_1", "acme", EXTERNAL_ID, role, datetime(2026, 1, 1, tzinfo=UTC))
    doctor = Doctor(world.database, S3Access(world.settings), monotonic_s)
    return await doctor.examine(org, uri, wish)


def also(refusal: Refusal) -> Refusal:
    return lambda request: strict_role(request) or refusal(request)


def step(report: Report, name: str) -> Step:
    return next(one for one in report.steps if one.name == name)


async def test_a_folder_that_can_be_read_passes_every_step(world: World) -> None:
    report = await examine(world)
    assert report.ok
    assert [one.name for one in report.steps] == PASSED
    assert all(one.code is None and one.statement is None for one in report.steps)
    assert "eu-west-1" in step(report, "region").message


async def test_with_an_architecture_the_verdict_comes_along(world: World, stub: S3Stub) -> None:
    good = await examine(world, wish=WISH)
    assert good.ok
    assert good.verdict is not None
    assert (good.verdict.files, good.verdict.tensors) == (1, 3)
    stub.objects[KEY] = safetensors_file([TensorSpec("x", "F32", (2,))])
    bad = await examine(world, wish=WISH)
    assert not bad.ok
    assert bad.verdict is not None
    assert [(p.code, p.count) for p in bad.verdict.problems] == [("WRONG_TENSORS", 4)]


CAUSES: dict[str, tuple[Refusal, str, str, object, str]] = {
    "the role": (
        lambda r: DENIED if r.operation == "AssumeRole" else None,
        "role",
        "ROLE_ACCESS_DENIED",
        TRUST,
        "the trust policy of the role",
    ),
    "listing": (
        lambda r: DENIED if r.operation == "ListObjectsV2" else None,
        "list",
        "LIST_ACCESS_DENIED",
        LIST,
        "the policy of the bucket",
    ),
    "HEAD": (
        lambda r: DENIED if r.operation == "HeadObject" else None,
        "head",
        "GET_ACCESS_DENIED",
        READ,
        "the policy of the bucket",
    ),
    "reading": (
        lambda r: DENIED if r.operation == "GetObject" else None,
        "first_byte",
        "GET_ACCESS_DENIED",
        READ,
        "the policy of the bucket",
    ),
    "the bucket": (
        lambda r: (404, "NoSuchBucket") if r.operation == "GetBucketLocation" else None,
        "region",
        "NO_SUCH_BUCKET",
        None,
        "",
    ),
    "the region": (
        lambda r: (301, "PermanentRedirect") if r.operation == "ListObjectsV2" else None,
        "list",
        "WRONG_REGION",
        None,
        "",
    ),
}


@pytest.mark.parametrize("cause", CAUSES)
async def test_a_refusal_is_named_with_the_statement_that_mends_it(
    cause: str, world: World, stub: S3Stub
) -> None:
    refusal, name, code, statement, goes_into = CAUSES[cause]
    stub.refusal = also(refusal)
    report = await examine(world)
    assert not report.ok
    failed = step(report, name)
    assert (failed.ok, failed.code) == (False, code)
    assert failed.statement == statement
    assert (failed.goes_into or "") == goes_into
    assert [one.name for one in report.steps if not one.ok] == [name]


async def test_a_key_that_may_not_be_used_is_told_apart_from_the_object(
    world: World, stub: S3Stub
) -> None:
    stub.head_members[KEY] = {
        "x-amz-server-side-encryption": "aws:kms",
        "x-amz-server-side-encryption-aws-kms-key-id": KMS_KEY,
    }
    good = await examine(world)
    assert KMS_KEY in step(good, "kms").message
    said = f"User is not authorized to perform: kms:Decrypt on resource: {KMS_KEY}"
    stub.refusal = also(
        lambda r: (403, f"AccessDenied: {said}") if r.operation == "GetObject" else None
    )
    failed = step(await examine(world), "kms")
    assert (failed.ok, failed.code, failed.statement) == (False, "KMS_ACCESS_DENIED", DECRYPT)
    assert failed.goes_into == "the policy of the KMS key"


async def test_a_role_that_asks_for_no_external_id_is_a_warning(world: World, stub: S3Stub) -> None:
    stub.roles_are_closed = False
    for open_to in ({None}, {None, WRONG_EXTERNAL_ID}):
        stub.refusal = lambda r, to=open_to: (
            DENIED
            if r.operation == "AssumeRole" and r.form.get("ExternalId") not in {*to, EXTERNAL_ID}
            else None
        )
        report = await examine(world)
        warning = step(report, "external_id")
        assert report.ok
        assert (warning.ok, warning.code, warning.statement) == (True, "ROLE_OPEN", TRUST)
        assert "without an external id" in warning.message


async def test_credentials_of_the_open_role_are_never_used(world: World, stub: S3Stub) -> None:
    stub.refusal = lambda r: None
    await examine(world)
    with_id = [n for n, role in enumerate(stub.roles, 1) if role.get("ExternalId") == EXTERNAL_ID]
    assert {get.token for get in stub.gets} <= {f"token-{number}" for number in with_id}


async def test_what_is_only_inconvenient_is_a_warning(world: World, stub: S3Stub) -> None:
    stub.head_members[KEY] = {"x-amz-version-id": "v1"}
    stub.refusal = also(
        lambda r: DENIED if r.operation == "GetBucketLocation" or "versionId" in r.query else None
    )
    report = await examine(world)
    assert report.ok
    location, version = step(report, "region"), step(report, "version_read")
    assert (location.code, location.statement) == ("LOCATION_ACCESS_DENIED", LOCATION)
    assert (version.code, version.statement) == ("VERSION_ACCESS_DENIED", READ)


@pytest.mark.parametrize("operation", ["ListObjectsV2", "GetObject"])
async def test_requester_pays_looks_like_a_refusal(
    operation: str, world: World, stub: S3Stub
) -> None:
    def unpaid(request: Request) -> tuple[int, str] | None:
        pays = request.headers.get("x-amz-request-payer") == "requester"
        return DENIED if request.operation == operation and not pays else None

    stub.refusal = also(unpaid)
    report = await examine(world)
    assert not report.ok
    assert [one.code for one in report.look_alikes] == ["REQUESTER_PAYS"]


@pytest.mark.parametrize("storage_class", ["GLACIER", "DEEP_ARCHIVE"])
async def test_an_archived_object_is_named(storage_class: str, world: World, stub: S3Stub) -> None:
    stub.storage_classes[KEY] = storage_class
    stub.head_members[KEY] = {"x-amz-storage-class": storage_class}
    failed = step(await examine(world), "head")
    assert (failed.ok, failed.code) == (False, "ARCHIVED")
    assert f"s3://acme/{KEY}" in failed.message
    stub.head_members[KEY]["x-amz-restore"] = 'ongoing-request="false", expiry-date="soon"'
    assert (await examine(world)).ok


async def test_objects_of_another_account_look_like_a_missing_right(
    world: World, stub: S3Stub
) -> None:
    stub.objects["m/model-2.safetensors"] = b"theirs"
    stub.refusal = also(
        lambda r: (
            DENIED if r.operation == "HeadObject" and r.key.endswith("-2.safetensors") else None
        )
    )
    report = await examine(world)
    assert step(report, "head").code == "GET_ACCESS_DENIED"
    assert [one.code for one in report.look_alikes] == ["OBJECT_OWNER"]


async def test_a_folder_that_may_not_be_listed_is_still_tried(world: World, stub: S3Stub) -> None:
    stub.refusal = also(lambda r: DENIED if r.operation == "ListObjectsV2" else None)
    report = await examine(world)
    assert step(report, "head").ok
    assert step(report, "first_byte").ok


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


async def test_a_server_that_does_not_answer_costs_bounded_time(
    world: World, stub: S3Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking_module, "PROBE_S", 1.0)

    def slow(request: Request) -> tuple[int, str] | None:
        time.sleep(0.6)
        return strict_role(request)

    stub.refusal = slow
    began = time.monotonic()
    report = await examine(world)
    assert time.monotonic() - began < 10
    assert report.steps[-1].code == "TIME_LIMIT"
