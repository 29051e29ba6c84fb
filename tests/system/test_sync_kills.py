"""kill -9 before and after each step of a sync: the next claim ends it, what was published is whole (W2, W6, D2)."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from ingest_world import World, start_world
from s3_stub import S3Stub, running_stub
from safetensors_files import index_of, safetensors_file
from sync_cases import INDEX, SHARDS, SPECS
from weighbridge.clock import new_uuid
from weighbridge.storage.database import Database
from weighbridge.weights.digest import file_digest

pytestmark = pytest.mark.system

ROLE = "arn:aws:iam::123456789012:role/reader"
LIMIT_S = 120.0
AT_ONCE = 3

STEPS = {
    "claim the version": "weighbridge.ingest.store:claim",
    "read the order": "weighbridge.ingest.store:order",
    "check whose bucket it is": "weighbridge.ingest.s3.bindings:require",
    "read the architecture": "weighbridge.ingest.sync:read_wish",
    "assume the role": "weighbridge.ingest.s3.access:S3Access.assume",
    "list the folder": "weighbridge.ingest.s3.source:Source.list_folder",
    "pin an object": "weighbridge.ingest.s3.source:Source.pin",
    "bind the bucket": "weighbridge.ingest.s3.bindings:bind",
    "record the snapshot": "weighbridge.ingest.store:record_snapshot",
    "read the headers": "weighbridge.ingest.sync:read_headers",
    "judge them": "weighbridge.ingest.sync:judge",
    "look for what is known": "weighbridge.ingest.store:known_digests",
    "reserve the disk": "weighbridge.ingest.pump.room:reserve",
    "take the turn": "weighbridge.ingest.pump.turn:Turn.enter",
    "fetch a part": "weighbridge.ingest.pump.staged:Staged.obtain",
    "write a piece": "weighbridge.ingest.pump.writer:StagedWriter.write",
    "journal a part": "weighbridge.ingest.pump.journal:Journal.note",
    "verify a file": "weighbridge.ingest.pump.staged:Staged.finish",
    "name the digests": "weighbridge.ingest.store:record_digests",
    "publish blobs": "weighbridge.weights.filesystem:FilesystemStore.publish_blobs",
    "fsync a blob": "weighbridge.weights.filesystem:fsync_file",
    "rename a blob": "pathlib:Path.replace",
    "fsync a directory": "weighbridge.weights.filesystem:fsync_directory",
    "leave the turn": "weighbridge.ingest.pump.turn:Turn.leave",
    "store the index": "weighbridge.weights.filesystem:FilesystemStore.put_bytes",
    "lease the manifest": "weighbridge.ingest.sync:Sync._lease_manifest",
    "name the manifest": "weighbridge.ingest.store:record_manifest",
    "publish the version": "weighbridge.weights.filesystem:FilesystemStore.publish",
    "link a file": "pathlib:Path.hardlink_to",
    "write the manifest": "weighbridge.weights.filesystem:write_durably",
    "show the directory": "weighbridge.weights.filesystem:rename_directory",
    "say that it is done": "weighbridge.ingest.store:finish",
    "sweep its staging": "weighbridge.weights.filesystem:FilesystemStore.remove_staging",
}
"""Every step of a sync that reads, writes or tells something, in order, and the function that takes it."""
POINTS = [f"{moment} {step}" for step in STEPS for moment in ("before", "after")]

_KILLER = '''
"""Runs one sync per line of its input, each in a process of its own that kills itself at the point named."""
import asyncio, functools, importlib, inspect, json, os, signal, sys
from pathlib import Path
from weighbridge.clock import Clock
from weighbridge.ingest import store as rows
from weighbridge.ingest.reconciler import IngestReconciler
from weighbridge.ingest.s3 import S3Access
from weighbridge.ingest.sync import Sync
from weighbridge.settings import Settings
from weighbridge.storage.database import Database
from weighbridge.weights.filesystem import FilesystemStore

url, schema, settings, root, steps = sys.argv[1:]
answers = os.fdopen(os.dup(1), "w")
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # where the logs go
settings, steps = Settings.model_validate_json(settings), json.loads(steps)
store = FilesystemStore(Path(root))
access = S3Access(settings)
access._s3(access._session(), "us-east-1"), access._sts()  # read what is slow to read once, before the forks


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def arm(point):
    moment, _, step = point.partition(" ")
    module, _, path = steps[step].partition(":")
    owner = importlib.import_module(module)
    *outer, name = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    real = getattr(owner, name)

    @functools.wraps(real)
    def around(*arguments, **more):
        if moment == "before":
            die()
        result = real(*arguments, **more)
        if inspect.isawaitable(result):
            async def wait():
                await result
                die()
            return wait()
        die()

    setattr(owner, name, around)


async def sync(version_id):
    database = Database(url, schema=schema)
    reconciler = IngestReconciler(database, store, access, Clock(), settings, holder=version_id)
    await reconciler._start(version_id)
    await reconciler.idle()
    await reconciler.close()
    await database.close()


def run(version_id, point):
    arm(point)
    asyncio.run(sync(version_id))


running = {}
for line in sys.stdin:
    version_id, point = json.loads(line)
    if len(running) >= int(os.environ["AT_ONCE"]):
        pid, status = os.wait()
        print(json.dumps([running.pop(pid), status]), file=answers, flush=True)
    pid = os.fork()
    if pid == 0:
        try:
            run(version_id, point)
        finally:
            os._exit(1)
    running[pid] = version_id
while running:
    pid, status = os.wait()
    print(json.dumps([running.pop(pid), status]), file=answers, flush=True)
'''


class _Stubbed:
    def __init__(self, stub: S3Stub) -> None:
        self.endpoint_url = stub.endpoint_url
        self.role_arn = ROLE
        self.external_id = "external-id-of-acme"


def content_of(number: int) -> dict[str, bytes]:
    return {name: safetensors_file(specs, fill=number + 1) for name, specs in SHARDS.items()}


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Stub]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "own")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "own-secret")
    with running_stub() as server:
        for number in range(len(POINTS)):
            for name, content in content_of(number).items():
                server.objects[f"p{number}/{name}"] = content
            server.objects[f"p{number}/{INDEX}"] = index_of(SHARDS)
        yield server


@pytest.fixture
async def world(stub: S3Stub, database: Database, tmp_path: Path) -> AsyncIterator[World]:
    settings = {"syncs_parallel": 8, "s3_bucket_owner": "first"}
    async with start_world(_Stubbed(stub), database, tmp_path, SPECS, **settings) as ready:
        yield ready


async def queue(world: World) -> list[str]:
    ids = [new_uuid() for _ in POINTS]
    async with world.database.begin() as tx:
        for number, version_id in enumerate(ids):
            await tx.execute(
                text(
                    "INSERT INTO orgs (id, name, s3_external_id, s3_role_arn, created_at) "
                    "VALUES (:org, :org, :org, :role, now())"
                ),
                {"org": f"org-{number}", "role": ROLE},
            )
            await tx.execute(
                text(
                    "INSERT INTO model_versions "
                    "(id, org_id, arch_id, number, weight_uri, status, created_at, updated_at) "
                    "VALUES (:id, :org, 'tiny', 1, :uri, 'queued', now(), now())"
                ),
                {"id": version_id, "org": f"org-{number}", "uri": f"s3://acme/p{number}"},
            )
    return ids


def kill_all(world: World, ids: list[str], url: str, schema: str) -> dict[str, int]:
    """Run every sync into its kill; how each process ended, by version."""
    words = [url, schema, world.settings.model_dump_json(), str(world.root), json.dumps(STEPS)]
    lines = "".join(
        json.dumps([version_id, point]) + "\n"
        for version_id, point in zip(ids, POINTS, strict=True)
    )
    ended = subprocess.run(
        [sys.executable, "-c", _KILLER, *words],
        input=lines,
        stdout=subprocess.PIPE,
        text=True,
        timeout=LIMIT_S,
        check=True,
        env=os.environ | {"AT_ONCE": str(AT_ONCE)},
    )
    return dict(json.loads(line) for line in ended.stdout.splitlines())


def assert_whole(world: World) -> None:
    for blob in world.store.blobs():
        assert file_digest(world.store.blob_path(blob.digest)) == blob.digest
    for digest in world.store.published():
        directory = world.store.version_dir(digest)
        for entry in world.store.manifest(digest).files:
            assert file_digest(directory / entry.path) == entry.digest


async def test_a_sync_that_is_killed_at_any_step_is_ended_by_the_next_claim(
    world: World, stub: S3Stub, database_url: str, database_schema: str
) -> None:
    ids = await queue(world)
    statuses = kill_all(world, ids, database_url, database_schema)
    survived = [
        point
        for version_id, point in zip(ids, POINTS, strict=True)
        if not os.WIFSIGNALED(statuses[version_id])
        or os.WTERMSIG(statuses[version_id]) != signal.SIGKILL
    ]
    assert survived == [], "every step is one that a sync takes"
    assert_whole(world)
    for version_id, point in zip(ids, POINTS, strict=True):
        row = await world.row(version_id)
        # `finish` is called before its transaction ends, so only the sweep comes after `done`.
        expected = {"claim": "queued", "sweep": "done"}.get(point.split()[1], "in_progress")
        if point in {"before read the order", "after read the order"}:
            expected = "queued"  # claimed in the same transaction
        assert row.status == expected, point

    await world.execute("UPDATE leases SET expires_at = '-infinity'")
    limit = time.monotonic() + LIMIT_S
    while {(await world.row(version_id)).status for version_id in ids} != {"done"}:
        assert time.monotonic() < limit
        await world.reconciler.reconcile()
        await world.reconciler.idle()
    assert_whole(world)
    await world.reconciler.collect()
    assert world.store.staging_owners() == set()
    for number, version_id in enumerate(ids):
        row = await world.row(version_id)
        directory = world.store.version_dir(row.manifest_digest)
        for name, content in content_of(number).items():
            assert (directory / name).read_bytes() == content
