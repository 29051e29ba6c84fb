"""Every named hostile input and fault ends its sync as it must, in its time, and leaves the store intact (W5, W9)."""

import asyncio
import errno
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Row, text
from sync_cases import CASES, SPECS, Case, folder_of

from ingest_world import World, start_world
from s3_stub import Asked, Request, S3Stub, running_stub
from weighbridge.clock import new_uuid
from weighbridge.ingest.s3 import access
from weighbridge.storage.database import Database
from weighbridge.weights.digest import file_digest
from weighbridge.weights.disk import durable
from weighbridge.weights.filesystem import FilesystemStore

pytestmark = pytest.mark.system

CASES_MIN = 120
AT_ONCE = 8
CASE_LIMIT_S = 60.0
"""For one case among AT_ONCE on slow cores; alone, most take 0.2 s."""
WHOLE_LIMIT_S = 300.0
ROLE = "arn:aws:iam::123456789012:role/reader"


@dataclass
class Ended:
    row: Row[Any]
    took_s: float
    content: bytes | None
    left_in_staging: bool


class _Stubbed:
    def __init__(self, stub: S3Stub) -> None:
        self.endpoint_url = stub.endpoint_url
        self.role_arn = ROLE
        self.external_id = "external-id-of-acme"


class Bucket:
    """One server for all cases; what it does depends on the folder it is asked about."""

    def __init__(self, stub: S3Stub) -> None:
        self.gets: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.pages: Counter[str] = Counter()
        for name, case in CASES.items():
            for key, content in case.files.items():
                stub.objects[folder_of(name) + key] = content
                stub.head_members[folder_of(name) + key] = dict(case.head)
        stub.fault, stub.refusal, stub.page = self.fault, self.refusal, self.page

    def fault(self, asked: Asked, _: int) -> str:
        name, case = self.case_of(asked.key)
        self.gets[name] += 1
        return case.fault(asked, self.gets[name] - 1) if case.fault else ""

    def refusal(self, request: Request) -> tuple[int, str] | None:
        where = request.key or request.query.get("prefix", "")
        if policy := request.form.get("Policy", ""):
            where = policy.partition(":s3:::acme/")[2]
        name, case = self.case_of(where)
        self.requests[name] += 1
        return case.refusal(request, self.requests[name] - 1) if case.refusal else None

    def page(self, query: Mapping[str, str]) -> str | None:
        name, case = self.case_of(query["prefix"])
        self.pages[name] += 1
        return case.page(query, self.pages[name] - 1) if case.page else None

    def case_of(self, key: str) -> tuple[str, Case]:
        name = key.partition("/")[0]
        return name, CASES.get(name, Case(None))


@contextmanager
def failing_disk(names: Mapping[str, str]) -> Iterator[None]:
    """File system calls fail for the syncs of cases that say so; `names` is the case by version id."""
    with pytest.MonkeyPatch.context() as patch:

        def broken(call: str, path: str) -> None:
            for version_id, name in names.items():
                step, _, code = CASES[name].disk.partition(":")
                if step == call and version_id in path:
                    number = getattr(errno, code)
                    raise OSError(number, os.strerror(number))

        def guarded(call: str, real: Any, path_of: Any) -> Any:
            def guard(*arguments: Any, **more: Any) -> Any:
                # Only what would write: what a fault leaves behind must be removable afterwards.
                if call != "open" or arguments[1] & os.O_CREAT:
                    broken(call, path_of(arguments[0]))
                return real(*arguments, **more)

            return guard

        def named(descriptor: int) -> str:
            return str(Path(f"/proc/self/fd/{descriptor}").readlink())

        patch.setattr(os, "posix_fallocate", guarded("reserve", os.posix_fallocate, named))
        patch.setattr(os, "pwrite", guarded("write", os.pwrite, named))
        patch.setattr(os, "write", guarded("write", os.write, named))
        patch.setattr(os, "open", guarded("open", os.open, str))
        patch.setattr(Path, "replace", guarded("rename", Path.replace, str))
        patch.setattr(durable.os, "fsync", guarded("fsync", os.fsync, named))
        yield


async def queue(world: World, names: list[str]) -> dict[str, str]:
    """A version per case, each of an org of its own, for an org runs only so many at once."""
    ids = {}
    async with world.database.begin() as tx:
        for number, name in enumerate(names):
            version_id, org = new_uuid(), f"org_{name}"
            ids[version_id] = name
            await tx.execute(
                text(
                    "INSERT INTO orgs (id, name, s3_external_id, s3_role_arn, created_at) "
                    "VALUES (:id, :name, :id, :role, now())"
                ),
                {"id": org, "name": f"o{number}", "role": ROLE},
            )
            await tx.execute(
                text(
                    "INSERT INTO model_versions "
                    "(id, org_id, arch_id, number, weight_uri, status, created_at, updated_at) "
                    "VALUES (:id, :org, 'tiny', 1, :uri, 'queued', now(), now())"
                ),
                {"id": version_id, "org": org, "uri": CASES[name].uri or f"s3://acme/{name}"},
            )
    return ids


async def play(world: World, ids: Mapping[str, str]) -> dict[str, Ended]:
    """Run all syncs to their ends."""
    began: dict[str, float] = {}
    ended: dict[str, Ended] = {}
    until = time.monotonic() + WHOLE_LIMIT_S
    while len(ended) < len(ids) and time.monotonic() < until:
        await world.reconciler.reconcile()
        async with world.database.begin() as tx:
            rows = (await tx.execute(text("SELECT * FROM model_versions"))).all()
        now = time.monotonic()
        for row in rows:
            name = ids[row.id]
            if row.status != "queued":
                began.setdefault(name, now)
            if row.status in ("done", "error", "cancelled") and name not in ended:
                content = None
                if row.status == "done":
                    directory = world.store.version_dir(row.manifest_digest)
                    model = directory / "model.safetensors"
                    content = model.read_bytes() if model.exists() else b""
                ended[name] = Ended(row, now - began[name], content, False)
        await asyncio.sleep(0.05)
    await world.reconciler.idle()
    for version_id in world.store.staging_owners():
        ended[ids[version_id]].left_in_staging = True
    return ended


@pytest.fixture(scope="module")
def outcomes(
    database_url: str, database_schema: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Mapping[str, Ended], FilesystemStore]]:
    """How every case ended, and the store they all wrote to."""
    directory = tmp_path_factory.mktemp("cases")

    async def run(stub: S3Stub) -> tuple[Mapping[str, Ended], FilesystemStore]:
        database = Database(database_url, schema=database_schema)
        async with database.begin() as tx:
            await tx.execute(text("TRUNCATE orgs, architectures, model_versions, leases CASCADE"))
        settings: dict[str, Any] = {
            "sync_stall_s": 5.0,
            "syncs_parallel": AT_ONCE,
            "sync_parts_parallel": 2,
            "s3_bucket_owner": "first",  # whose a bucket is has tests of its own
        }
        async with start_world(_Stubbed(stub), database, directory, SPECS, **settings) as world:
            ids = await queue(world, list(CASES))
            with failing_disk(ids):
                ended = await play(world, ids)
            store = world.store
        await database.close()
        return ended, store

    with pytest.MonkeyPatch.context() as patch, running_stub() as stub:
        patch.setenv("AWS_ACCESS_KEY_ID", "own")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "own-secret")
        patch.setattr(access, "READ_TIMEOUT_S", 2.5)
        Bucket(stub)
        yield asyncio.run(run(stub))


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= CASES_MIN


@pytest.mark.parametrize("name", CASES)
def test_a_sync_ends_as_it_must(
    name: str, outcomes: tuple[Mapping[str, Ended], FilesystemStore]
) -> None:
    case, ended = CASES[name], outcomes[0][name]
    row = ended.row
    assert (row.status, row.error_code) == ("error" if case.code else "done", case.code), (
        row.error_message
    )
    assert ended.took_s < CASE_LIMIT_S
    assert not ended.left_in_staging
    if case.code is None:
        assert ended.content == case.files.get("model.safetensors", b"")
        return
    assert case.words in row.error_message
    assert row.error_message.isprintable()
    assert row.manifest_digest is None


def test_the_store_is_intact_after_all_of_it(
    outcomes: tuple[Mapping[str, Ended], FilesystemStore],
) -> None:
    ended, store = outcomes
    assert ended.keys() == CASES.keys()
    for blob in store.blobs():
        assert file_digest(store.blob_path(blob.digest)) == blob.digest
    done = {one.row.manifest_digest for one in ended.values() if one.row.status == "done"}
    (base,) = store.published() - done
    assert store.published() - {base} == done
    for digest in store.published():
        directory = store.version_dir(digest)
        for entry in store.manifest(digest).files:
            assert file_digest(directory / entry.path) == entry.digest
