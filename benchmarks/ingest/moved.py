"""How many bytes a sync moves: of a second version that shares most shards, and after a kill -9 half-way.

Whole syncs, with database and store, in a control plane's process; the origin counts what it sends. A resumed
sync is measured thus: a process is killed with -9 at full speed, in the moment it has received half of the
version's bytes; what a second process fetches until the version is done, listing and headers included, is
divided by the version's bytes. 50 % would mean that the first lost nothing it had received.
"""

import asyncio
import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import awscrt.checksums
from sqlalchemy import text

from benchmarks.ingest.sparse_origin import Origin, SparseObject, running_origin
from weighbridge.clock import new_uuid
from weighbridge.settings import Settings
from weighbridge.storage import embedded
from weighbridge.storage.database import Database
from weighbridge.storage.schema.migrate import migrate
from weighbridge.weights.filesystem import FilesystemStore
from weighbridge.weights.manifest import FileEntry, Manifest

SHARDS = 8
CHANGED = 2
CONTROL = Path(__file__).with_name("control.py")
CONFIG = json.dumps({"model_type": "llama"}).encode()
ZEROS = bytes(16 << 20)
POLL_S = 0.1
SETTLE_POLLS_MAX = 100
SYNC_S_MAX = 300.0


def measure(directory: Path, shard_bytes: int) -> Mapping[str, float]:
    """Shares of a version's bytes, in percent: `second`, and `resumed` after a kill when half had been received."""
    folders = {"first": _version(1, shard_bytes), "second": _version(2, shard_bytes)}
    folders["third"] = _version(3, shard_bytes, changed=SHARDS)
    objects = {
        f"{folder}/{name}": item
        for folder, items in folders.items()
        for name, item in items.items()
    }
    with _database() as url, running_origin(objects) as origin:
        return asyncio.run(_Moves(url, directory, origin, shard_bytes).measure())


class _Moves:
    def __init__(self, url: str, directory: Path, origin: Origin, shard_bytes: int) -> None:
        self._url = url
        self._directory = directory
        self._origin = origin
        self._shard_bytes = shard_bytes
        self._settings = Settings(
            data_dir=directory, s3_endpoint_url=origin.url, disk_free_min_share=0.0
        )
        self._database = Database(url)

    async def measure(self) -> Mapping[str, float]:
        try:
            await self._register()
            with self._control():
                await self._synced("first")
                self._origin.bytes_sent()
                await self._synced("second")
                second = self._origin.bytes_sent()
            total = SHARDS * self._shard_bytes
            version_id = await self._upload("third")
            with self._control(killed_at=total // 2) as process:
                ended = await asyncio.to_thread(process.wait, SYNC_S_MAX)
                assert ended == -signal.SIGKILL, "it ended before it was killed"
            await self._settled()
            with self._control():
                await self._end(version_id)
            resumed = self._origin.bytes_sent()
        finally:
            await self._database.close()
        return {"second": 100 * second / total, "resumed": 100 * resumed / total}

    async def _settled(self) -> None:
        """Let the origin notice that its connections are gone: what it counts from here on is for the next."""
        for _ in range(SETTLE_POLLS_MAX):
            if self._origin.bytes_sent() == 0:
                return
            await asyncio.sleep(POLL_S)
        raise AssertionError("somebody still reads from the origin")

    async def _synced(self, folder: str) -> None:
        await self._end(await self._upload(folder))

    async def _end(self, version_id: str) -> None:
        limit = time.monotonic() + SYNC_S_MAX
        query = text("SELECT status, error_message FROM model_versions WHERE id = :id")
        while time.monotonic() < limit:
            async with self._database.begin() as tx:
                row = (await tx.execute(query, {"id": version_id})).one()
            assert row.status in {"queued", "in_progress", "done"}, row.error_message
            if row.status == "done":
                return
            await asyncio.sleep(0.05)
        raise AssertionError("the sync does not end")

    async def _upload(self, folder: str) -> str:
        version_id = new_uuid()
        async with self._database.begin() as tx:
            await tx.execute(
                text(
                    """
                    INSERT INTO model_versions (id, org_id, arch_id, number, weight_uri, status, created_at, updated_at)
                    SELECT :id, 'org', 'arch', count(*) + 1, :uri, 'queued', now(), now() FROM model_versions
                    """
                ),
                {"id": version_id, "uri": f"s3://bucket/{folder}"},
            )
        return version_id

    async def _register(self) -> None:
        """An org, and an architecture of one tensor per shard."""
        store = FilesystemStore(self._directory / "store")
        digest, size_bytes = store.put_bytes(CONFIG)
        base = store.publish(Manifest.of([FileEntry("config.json", size_bytes, digest)]))
        tensors = [[_tensor(n), "U8", [self._shard_bytes]] for n in range(SHARDS)]
        async with self._database.begin() as tx:
            await tx.execute(
                text(
                    "INSERT INTO orgs (id, name, s3_external_id, created_at) VALUES ('org', 'org', 'x', now())"
                )
            )
            await tx.execute(
                text(
                    """
                    INSERT INTO architectures (id, source_uri, base_digest, tensors, engine, created_at, updated_at)
                    VALUES ('arch', '/base', :digest, CAST(:tensors AS jsonb), '{}', now(), now())
                    """
                ),
                {"digest": base, "tensors": json.dumps(tensors)},
            )

    @contextmanager
    def _control(self, *, killed_at: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
        """A control plane that ends as a power cut would end it: at `killed_at` bytes received, or here."""
        command = [sys.executable, str(CONTROL), self._url, str(self._directory / "store")]
        command += [self._settings.model_dump_json()]
        command += [] if killed_at is None else [str(killed_at)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            try:
                yield process
            finally:
                process.kill()


@contextmanager
def _database() -> Iterator[str]:
    """PostgreSQL in a directory that its own user can reach."""
    candidates = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]
    parent = next((path for path in candidates if embedded.reachable(path)), candidates[0])
    directory = Path(tempfile.mkdtemp(prefix="wb-bench-pg-", dir=parent))
    directory.chmod(0o755)
    try:
        url = embedded.start(directory / "postgres")
        try:
            migrate(url)
            yield url
        finally:
            embedded.stop(directory / "postgres")
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _tensor(number: int) -> str:
    return f"model.layers.{number}.weight"


def _version(
    number: int, shard_bytes: int, *, changed: int = CHANGED
) -> Mapping[str, SparseObject]:
    """Shards of one tensor each; all but the last `changed` are the same in every version."""
    shards = {
        f"model-{n + 1:05}-of-{SHARDS:05}.safetensors": _shard(
            n, number if n >= SHARDS - changed else 0, shard_bytes
        )
        for n in range(SHARDS)
    }
    weight_map = {_tensor(n): name for n, name in enumerate(shards)}
    index = json.dumps({"weight_map": weight_map}).encode()
    return {**shards, "model.safetensors.index.json": SparseObject(index, len(index))}


def _shard(number: int, content: int, shard_bytes: int) -> SparseObject:
    member = {"dtype": "U8", "shape": [shard_bytes], "data_offsets": [0, shard_bytes]}
    text_bytes = json.dumps({_tensor(number): member}).encode()
    head = len(text_bytes).to_bytes(8, "little") + text_bytes + f"{number:04}{content:04}".encode()
    size_bytes = 8 + len(text_bytes) + shard_bytes
    rest = size_bytes - len(head)
    checksum = awscrt.checksums.combine_crc64nvme(
        awscrt.checksums.crc64nvme(head), _zeros_crc64nvme(rest), rest
    )
    stated = base64.b64encode(checksum.to_bytes(8, "big")).decode()
    return SparseObject(head, size_bytes, stated)


@lru_cache
def _zeros_crc64nvme(count: int) -> int:
    checksum = 0
    for at in range(0, count, len(ZEROS)):
        checksum = awscrt.checksums.crc64nvme(ZEROS[: count - at], checksum)
    return int(checksum)


if __name__ == "__main__":
    os.environ |= {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as made:
        print(measure(Path(made), int(sys.argv[1]) << 20))
