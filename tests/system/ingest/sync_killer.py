"""Syncs of which each is killed with -9 at a step of its own, for tests of what the next claim makes of it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager

import pytest
from sqlalchemy import text
from sync_cases import INDEX, SHARDS

from ingest_world import World
from s3_stub import S3Stub, running_stub
from safetensors_files import index_of, safetensors_file
from weighbridge.clock import new_uuid
from weighbridge.weights.digest import content_digest, file_digest

ROLE = "arn:aws:iam::123456789012:role/reader"
LIMIT_S = 120.0
AT_ONCE = 3

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
from weighbridge.weights.bucket import transfer
from weighbridge.weights.bucket.opening import open_store
from weighbridge.weights.node.marks import LoadMarks

url, schema, marks, steps = sys.argv[1:]
answers = os.fdopen(os.dup(1), "w")
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # where the logs go
settings, steps = Settings.model_validate_json(os.environ.pop("SETTINGS")), json.loads(steps)
transfer.WHOLE_BYTES_MAX = 1000  # so that a small test sends one blob whole and another in parts
store = open_store(settings, "killed", LoadMarks(Path(marks)), lambda: ())
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


class Stubbed:
    """The stub, as a world of syncs wants its S3."""

    def __init__(self, stub: S3Stub) -> None:
        self.endpoint_url = stub.endpoint_url
        self.role_arn = ROLE
        self.external_id = "external-id-of-acme"


def points_of(steps: Mapping[str, str]) -> list[str]:
    return [f"{moment} {step}" for step in steps for moment in ("before", "after")]


def content_of(number: int) -> dict[str, bytes]:
    return {name: safetensors_file(specs, fill=number + 1) for name, specs in SHARDS.items()}


@contextmanager
def weights_of(count: int) -> Iterator[S3Stub]:
    """A server with `count` uploads of their own bytes, `s3://acme/p<number>`, for this process's own identity."""
    with running_stub() as server, pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ACCESS_KEY_ID", "own")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "own-secret")
        for number in range(count):
            for name, content in content_of(number).items():
                server.objects[f"p{number}/{name}"] = content
            server.objects[f"p{number}/{INDEX}"] = index_of(SHARDS)
        yield server


async def queue(world: World, count: int) -> list[str]:
    """A version per upload, each of an org of its own, for an org runs only so many at once."""
    ids = [new_uuid() for _ in range(count)]
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


def kill_all(
    world: World, ids: Sequence[str], steps: Mapping[str, str], url: str, schema: str
) -> None:
    """Run every sync into its kill; AssertionError for one that came to its end."""
    marks = str(world.settings.data_dir / "marks")
    words = [url, schema, marks, json.dumps(steps)]
    settings = world.settings.model_dump(mode="json")
    if (secret := world.settings.store_secret_access_key) is not None:
        settings["store_secret_access_key"] = secret.get_secret_value()
    points = points_of(steps)
    lines = "".join(json.dumps(pair) + "\n" for pair in zip(ids, points, strict=True))
    ended = subprocess.run(
        [sys.executable, "-c", _KILLER, *words],
        input=lines,
        stdout=subprocess.PIPE,
        text=True,
        timeout=LIMIT_S,
        check=True,
        env=os.environ | {"AT_ONCE": str(AT_ONCE), "SETTINGS": json.dumps(settings)},
    )
    statuses = dict(json.loads(line) for line in ended.stdout.splitlines())
    survived = [
        point
        for version_id, point in zip(ids, points, strict=True)
        if not os.WIFSIGNALED(statuses[version_id])
        or os.WTERMSIG(statuses[version_id]) != signal.SIGKILL
    ]
    assert not survived, f"not steps that a sync takes: {survived}"


async def end_all(world: World, ids: Sequence[str]) -> None:
    """Claim the syncs anew and run them; each is done, with its own bytes, and leaves nothing in staging."""
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


def assert_whole(world: World) -> None:
    """What is in the store is what it is called; what is published can be presented."""
    for blob in world.store.blobs():
        with closing(world.store.open_blob(blob.digest)) as content:
            assert content_digest(content.read(blob.size_bytes + 1)) == blob.digest
    for digest in world.store.published():
        directory = world.store.version_dir(digest)
        for entry in world.store.manifest(digest).files:
            assert file_digest(directory / entry.path) == entry.digest
