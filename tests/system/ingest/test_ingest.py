"""Weight syncs from a real S3 server into a real store and database."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from ingest_world import BASE_CONFIG, SPECS, World, start_world
from s3 import S3Server, running_s3
from safetensors_files import index_of, safetensors_file
from weighbridge.storage.database import Database
from weighbridge.weights.manifest import MANIFEST_FILE

pytestmark = pytest.mark.system

SHARDS = {
    "model-00001-of-00002.safetensors": SPECS[:2],
    "model-00002-of-00002.safetensors": SPECS[2:],
}


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with running_s3() as server:
        server.create_bucket("acme", versioned=True)
        server.create_bucket("plain")
        yield server


@pytest.fixture
async def world(
    s3: S3Server, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    async with start_world(s3, database, tmp_path) as ready:
        yield ready


async def test_one_file_becomes_a_published_version(world: World, s3: S3Server) -> None:
    content = safetensors_file(SPECS)
    s3.put("acme", "one/model.safetensors", content)
    s3.put("acme", "one/config.json", BASE_CONFIG)
    s3.put("acme", "one/tokenizer.json", b"the customer's own, ignored")
    s3.put("acme", "one/README.md", b"ignored")
    row = await world.sync("s3://acme/one")
    assert (row.status, row.error_code, row.files_done, row.step) == ("done", None, 1, "")
    assert row.bytes_done == row.bytes_total == len(content)
    directory = world.store.version_dir(row.manifest_digest)
    assert sorted(path.name for path in directory.iterdir()) == sorted(
        ["config.json", "model.safetensors", "tokenizer.json", MANIFEST_FILE]
    )
    assert (directory / "model.safetensors").read_bytes() == content
    assert (directory / "tokenizer.json").read_bytes() == b"{}"
    assert world.store.staging_owners() == set()
    assert "verdicts_count 1" in list(world.reconciler.verdicts.lines("verdicts"))


async def test_shards_are_published_with_an_index_of_ours(world: World, s3: S3Server) -> None:
    for name, specs in SHARDS.items():
        s3.put("acme", f"shards/{name}", safetensors_file(specs))
    s3.put("acme", "shards/model.safetensors.index.json", index_of(SHARDS))
    row = await world.sync("s3://acme/shards/")
    assert (row.status, row.files_done) == ("done", 2)
    directory = world.store.version_dir(row.manifest_digest)
    index = (directory / "model.safetensors.index.json").read_bytes()
    assert b'"weight_map"' in index
    assert index != index_of(SHARDS)


async def test_the_same_objects_again_fetch_no_byte_and_share_their_blobs(
    world: World, s3: S3Server
) -> None:
    s3.put("acme", "again/model.safetensors", safetensors_file(SPECS, fill=3))
    first = await world.sync("s3://acme/again")
    s3.put("acme", "again/notes.txt", b"changes nothing")
    second = await world.sync("s3://acme/again")
    assert second.status == "done"
    assert second.manifest_digest == first.manifest_digest
    assert second.bytes_done == second.bytes_total


async def test_an_unversioned_bucket_is_pinned_by_etag(world: World, s3: S3Server) -> None:
    s3.put("plain", "m/model.safetensors", safetensors_file(SPECS))
    assert (await world.sync("s3://plain/m")).status == "done"


async def test_a_full_object_checksum_of_s3_is_verified(world: World, s3: S3Server) -> None:
    content = safetensors_file(SPECS, fill=5)
    s3.put("acme", "crc/model.safetensors", content, ChecksumAlgorithm="CRC64NVME")
    row = await world.sync("s3://acme/crc")
    assert row.status == "done"
    assert (await world.files(row.id))[0].checksum.startswith("crc64nvme:")


Refusal = tuple[dict[str, bytes], str, str]

REFUSALS: dict[str, Refusal] = {
    "nothing": ({}, "EMPTY", "check its spelling"),
    "no_tensors": ({"config.json": BASE_CONFIG}, "EMPTY", "no *.safetensors"),
    "pickle": ({"pytorch_model.bin": b"x"}, "PICKLE_ONLY", "safetensors"),
    "nested": ({"sub/model.safetensors": b"x"}, "EMPTY", "1 folders"),
    "bad_name": ({"mo del.safetensors": b"x"}, "BAD_NAME", "mo del"),
    "case": (
        {"Model.safetensors": b"x", "model.safetensors": b"x"},
        "NAME_COLLISION",
        "upper and lower case",
    ),
    "missing_tensor": (
        {"model.safetensors": safetensors_file(SPECS[1:])},
        "WRONG_TENSORS",
        f"1 missing: {SPECS[0].name}",
    ),
    "not_safetensors": ({"model.safetensors": b"\x80\x04pickle"}, "ST_HEADER_TOO_LONG", "model."),
    "empty_file": ({"model.safetensors": b""}, "ST_TOO_SHORT", "0 bytes"),
    "missing_shard": (
        {
            "model-00001-of-00002.safetensors": safetensors_file(SPECS[:2]),
            "model.safetensors.index.json": index_of(SHARDS),
        },
        "MISSING_SHARD",
        "model-00002-of-00002.safetensors",
    ),
    "surplus_shard": (
        {
            **{name: safetensors_file(specs) for name, specs in SHARDS.items()},
            "model.safetensors.index.json": index_of(SHARDS),
            "extra.safetensors": safetensors_file(SPECS[:1]),
        },
        "SURPLUS_SHARD",
        "extra.safetensors",
    ),
    "wrong_config": (
        {
            "model.safetensors": safetensors_file(SPECS),
            "config.json": BASE_CONFIG.replace(b'"hidden_size": 64', b'"hidden_size": 128'),
        },
        "WRONG_CONFIG",
        "hidden_size is '128', not '64'",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
async def test_what_cannot_be_served_is_refused_with_a_code_and_a_next_step(
    name: str, world: World, s3: S3Server
) -> None:
    objects, code, words = REFUSALS[name]
    for key, content in objects.items():
        s3.put("acme", f"refused-{name}/{key}", content)
    row = await world.sync(f"s3://acme/refused-{name}")
    assert (row.status, row.error_code) == ("error", code)
    assert words in row.error_message
    assert row.manifest_digest is None
    assert world.store.staging_owners() == set()


async def test_more_objects_than_the_limit_are_refused(world: World, s3: S3Server) -> None:
    for number in range(12):
        s3.put("acme", f"many/{number}.txt", b"x")
    world.reconciler._parts = world.parts_with(objects_max=10)
    row = await world.sync("s3://acme/many")
    assert (row.status, row.error_code) == ("error", "TOO_LARGE")


async def test_an_archived_object_is_refused(world: World, s3: S3Server) -> None:
    content = safetensors_file(SPECS)
    s3.put("acme", "cold/model.safetensors", content, StorageClass="DEEP_ARCHIVE")
    row = await world.sync("s3://acme/cold")
    assert (row.status, row.error_code) == ("error", "ARCHIVED")


async def test_a_bucket_that_does_not_exist_is_named(world: World) -> None:
    row = await world.sync("s3://no-such-bucket-here/m")
    assert (row.status, row.error_code) == ("error", "NO_SUCH_BUCKET")
    assert "no-such-bucket-here" in row.error_message


async def test_a_wrong_external_id_is_told_apart_and_shows_the_condition(world: World) -> None:
    row = await world.sync("s3://acme/one", external_id="somebody-elses")
    assert (row.status, row.error_code) == ("error", "ROLE_ACCESS_DENIED")
    assert '"sts:ExternalId": "somebody-elses"' in row.error_message


@pytest.mark.parametrize(
    ("actions", "code", "permission"),
    [
        (["s3:GetObject", "s3:GetObjectVersion"], "LIST_ACCESS_DENIED", "s3:ListBucket"),
        (["s3:ListBucket"], "GET_ACCESS_DENIED", "s3:GetObject"),
    ],
)
async def test_a_missing_permission_is_named_with_the_policy_to_paste(
    actions: list[str], code: str, permission: str, world: World, s3: S3Server
) -> None:
    s3.put("acme", "denied/model.safetensors", safetensors_file(SPECS))
    role = s3.create_role(f"only-{permission.partition(':')[2]}-missing", actions)
    row = await world.sync("s3://acme/denied", role_arn=role)
    assert (row.status, row.error_code) == ("error", code)
    assert permission in row.error_message
    assert f'"AWS": "{role}"' in row.error_message
    assert '"Resource": "arn:aws:s3:::acme/denied/*"' in row.error_message


async def test_without_the_right_to_versions_the_etag_pins_alone(
    world: World, s3: S3Server
) -> None:
    s3.put("acme", "noversions/model.safetensors", safetensors_file(SPECS, fill=11))
    role = s3.create_role("no-versions", ["s3:GetObject", "s3:ListBucket"])
    assert (await world.sync("s3://acme/noversions", role_arn=role)).status == "done"


async def test_a_full_disk_is_refused_before_the_first_byte_with_both_figures(
    world: World, s3: S3Server
) -> None:
    s3.put("acme", "disk/model.safetensors", safetensors_file(SPECS))
    world.reconciler._parts = world.parts_with(disk_free_min_share=1.0)
    row = await world.sync("s3://acme/disk")
    assert (row.status, row.error_code) == ("error", "DISK_FULL")
    assert "GB free" in row.error_message


async def test_a_version_cancelled_in_the_queue_ends_cancelled(world: World) -> None:
    version_id = await world.upload("s3://acme/one")
    await world.execute("UPDATE model_versions SET cancel_requested = true")
    row = await world.finished(version_id)
    assert (row.status, row.error_code) == ("cancelled", "CANCELLED")


async def test_a_deleted_versions_bytes_go_and_what_others_name_stays(
    world: World, s3: S3Server
) -> None:
    s3.put("acme", "gone/model.safetensors", safetensors_file(SPECS, fill=7))
    s3.put("acme", "kept/model.safetensors", safetensors_file(SPECS, fill=8))
    gone, kept = await world.sync("s3://acme/gone"), await world.sync("s3://acme/kept")
    await world.execute(f"UPDATE model_versions SET deleted_at = now() WHERE id = '{gone.id}'")
    await world.reconciler.collect()
    assert gone.manifest_digest not in world.store.published()
    assert (world.store.version_dir(kept.manifest_digest) / "config.json").is_file()
    weights = world.store.manifest(kept.manifest_digest).by_path()["model.safetensors"]
    assert world.store.has_blob(weights.digest)
    blobs = {path.name for path in (world.root / "blobs").glob("??/*")}
    assert len(blobs) == 3


async def test_two_reconcilers_never_run_one_sync_twice(world: World, s3: S3Server) -> None:
    s3.put("acme", "twice/model.safetensors", safetensors_file(SPECS, fill=9))
    version_id = await world.upload("s3://acme/twice")
    async with world.another() as other:
        await asyncio.gather(world.reconciler.reconcile(), other.reconcile())
        running = [set(r._tasks) for r in (world.reconciler, other)]
        assert sorted(map(len, running)) == [0, 1]
        assert (await world.finished(version_id)).status == "done"
    assert (await world.row(version_id)).claim_epoch == 1
