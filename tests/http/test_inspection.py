"""The routes that look and change nothing: the S3 doctor, the difference of versions, buckets and their set-up."""

from pathlib import Path

import numpy as np
import pytest

from control_world import ARCH, Caller, World
from safetensors_files import encode, header_of
from weighbridge.accounts.model import KeyKind, Org
from weighbridge.api.inspection.quota import CallQuota
from weighbridge.errors import LimitError, UnavailableError
from weighbridge.registry.model import SyncStatus
from weighbridge.storage.tables import bucket_bindings, model_versions
from weighbridge.weights.diff.reconciler import TensorDigestReconciler
from weighbridge.weights.diff.shelf import TensorShelf
from weighbridge.weights.manifest import FileEntry, Manifest
from weighbridge.weights.tensors import TensorSpec

EXPLAIN = "/management/v1/orgs/my-org/models:explainAccess"
VERSIONS = f"/management/v1/orgs/my-org/models/{ARCH}/versions"


async def test_an_address_is_explained_without_asking_anybody(member: Caller) -> None:
    answer = await member("POST", EXPLAIN, {"weight_uri": "https://b-1.s3.amazonaws.com/m"})
    assert answer.status_code == 200
    assert answer.json()["ok"] is False
    assert answer.json()["steps"][0]["name"] == "uri"
    assert answer.json()["look_alikes"][0]["suggestion"] == "s3://b-1/m"


async def test_the_doctor_is_asked_six_times_a_minute(world: World, member: Caller) -> None:
    for _ in range(6):
        assert (await member("POST", EXPLAIN, {"weight_uri": "x"})).status_code == 200
    answer = await member("POST", EXPLAIN, {"weight_uri": "x"})
    assert (answer.status_code, answer.json()["code"]) == (429, "too_many_calls")
    _, text = await world.key(KeyKind.MANAGEMENT, await world.org("other"))
    path = EXPLAIN.replace("my-org", "other")
    answer = await Caller(world.client, text)("POST", path, {"weight_uri": "x"})
    assert answer.status_code == 200, "another org has a count of its own"


async def test_an_architecture_that_the_org_cannot_see_is_not_found(member: Caller) -> None:
    body = {"weight_uri": "s3://b-1/m", "model_arch_id": "nothing"}
    answer = await member("POST", EXPLAIN, body)
    assert (answer.status_code, answer.json()["code"]) == (404, "model_architecture_not_found")


async def test_another_orgs_bucket_is_refused_with_the_shared_role(
    world: World, member: Caller
) -> None:
    other = await world.org("other")
    async with world.database.begin() as tx:
        await tx.execute(
            bucket_bindings.insert().values(bucket="theirs", org_id=other.id, bound_at=world.time)
        )
    answer = await member("POST", EXPLAIN, {"weight_uri": "s3://theirs/m"})
    assert [step["code"] for step in answer.json()["steps"]] == ["BUCKET_BOUND"]
    assert "other" not in answer.json()["steps"][0]["message"].split(), "whose it is stays unsaid"


def test_calls_are_counted_within_their_window() -> None:
    quota = CallQuota(calls_max=1, window_s=60.0, running_max=1)
    with quota.turn("a", 0.0), pytest.raises(UnavailableError), quota.turn("b", 0.0):
        pass
    with pytest.raises(LimitError, match="in 1 s"), quota.turn("a", 59.0):
        pass
    with quota.turn("a", 60.0):
        pass


async def publish(world: World, org: Org, ref: int, values: list[float]) -> None:
    """Give a version real files."""
    spec = TensorSpec("w", "F32", (len(values),))
    content = encode(header_of([spec]), np.array(values, "<f4").tobytes())
    digest, size = world.parts.store.put_bytes(content)
    manifest = world.parts.store.publish(
        Manifest.of([FileEntry("model.safetensors", size, digest)])
    )
    version = await world.end_sync(org, ref)
    async with world.database.begin() as tx:
        row = model_versions.c.id == version.id
        await tx.execute(model_versions.update().where(row).values(manifest_digest=manifest))


async def test_versions_are_compared_once_their_tensors_are_hashed(
    world: World, org: Org, member: Caller
) -> None:
    for ref, values in ((1, [3.0, 4.0]), (2, [3.0, 4.5])):
        upload = {"model_arch_id": ARCH, "model": {"weight_uri": "s3://my-bucket/w"}}
        await member("POST", "/management/v1/orgs/my-org/models:upload", upload)
        await publish(world, org, ref, values)
    pending = await member("GET", f"{VERSIONS}:diff?from=1&to=2")
    assert (pending.status_code, pending.json()["code"]) == (503, "tensor_digests_pending")
    shelf = TensorShelf(world.parts.store.tensor_notes)
    reconciler = TensorDigestReconciler(world.parts.store, shelf)
    while await reconciler.reconcile() == 0.0:
        pass
    await reconciler.close()
    answer = (await member("GET", f"{VERSIONS}:diff?from=1&to=2")).json()
    assert answer["summary"] == "1 of 1 tensors differ, largest change in w (10 %)"
    assert answer["changes"][0]["relative_change"] == pytest.approx(0.1)
    same = (await member("GET", f"{VERSIONS}:diff?from=2&to=2")).json()
    assert (same["differing"], same["summary"]) == (0, "0 of 1 tensors differ")


async def test_only_versions_that_are_here_are_compared(
    world: World, org: Org, member: Caller
) -> None:
    upload = {"model_arch_id": ARCH, "model": {"weight_uri": "s3://my-bucket/w"}}
    await member("POST", "/management/v1/orgs/my-org/models:upload", upload)
    answer = await member("GET", f"{VERSIONS}:diff?from=1&to=1")
    assert (answer.status_code, answer.json()["code"]) == (409, "model_version_not_synced")
    await world.end_sync(org, 1, SyncStatus.ERROR)
    answer = await member("GET", f"{VERSIONS}:diff?from=1&to=1")
    assert answer.status_code == 409


async def test_progress_tells_rate_rest_and_retries(world: World, org: Org, member: Caller) -> None:
    upload = {"model_arch_id": ARCH, "model": {"weight_uri": "s3://my-bucket/w"}}
    await member("POST", "/management/v1/orgs/my-org/models:upload", upload)
    async with world.database.begin() as tx:
        await tx.execute(
            model_versions.update().values(
                status="in_progress", step="fetch", bytes_total=1000, bytes_done=400, bytes_per_s=90.5,
                retries=3,
            )
        )  # fmt: skip
    progress = (await member("GET", f"{VERSIONS}/1")).json()["response"]["progress"]
    assert (progress["bytes_per_s"], progress["eta_s"], progress["retries"]) == (90, 7, 3)
    await world.end_sync(org, 1)
    progress = (await member("GET", f"{VERSIONS}/1")).json()["response"]["progress"]
    assert "bytes_per_s" not in progress
    assert "eta_s" not in progress


async def test_the_operator_prints_policies_and_releases_buckets(
    world: World, org: Org, operator: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    world.parts.s3._settings.s3_endpoint_url = "http://127.0.0.1:9"
    await operator(
        "PATCH", "/admin/v1/orgs/my-org", {"s3_role_arn": "arn:aws:iam::222222222222:role/r"}
    )
    setup = await operator("GET", "/admin/v1/orgs/my-org/s3-setup?bucket=my-bucket&prefix=m")
    assert setup.status_code == 200
    body = setup.json()
    assert body["s3_external_id"] == "external-my-org"
    assert body["server_identity"].startswith("<"), "nobody could be asked"
    principals = {one["Principal"]["AWS"] for one in body["bucket_policy"]["Statement"]}
    assert principals == {"arn:aws:iam::222222222222:role/r"}
    bad = await operator("GET", "/admin/v1/orgs/my-org/s3-setup?bucket=my-bucket&kms_key_arn=x")
    assert bad.status_code == 400

    async with world.database.begin() as tx:
        await tx.execute(
            bucket_bindings.insert().values(bucket="my-bucket", org_id=org.id, bound_at=world.time)
        )
    listed = (await operator("GET", "/admin/v1/buckets")).json()["buckets"]
    assert [(one["bucket"], one["org_name"], one["role_arn"]) for one in listed] == [
        ("my-bucket", "my-org", None)
    ]
    assert (await operator("DELETE", "/admin/v1/buckets/my-bucket")).json()["released"] is True
    assert (await operator("DELETE", "/admin/v1/buckets/my-bucket")).status_code == 404
