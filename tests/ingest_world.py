"""A database, a store and an ingest reconciler around one architecture, for tests of weight syncs."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import Row, text

from s3 import S3Server
from weighbridge.clock import Clock, new_uuid
from weighbridge.ingest.reconciler import IngestReconciler
from weighbridge.ingest.s3 import S3Access
from weighbridge.ingest.sync import SyncParts
from weighbridge.settings import Settings
from weighbridge.storage.database import Database
from weighbridge.weights.base import WeightStore
from weighbridge.weights.bucket.opening import open_store
from weighbridge.weights.manifest import FileEntry, Manifest
from weighbridge.weights.node.marks import LoadMarks
from weighbridge.weights.tensors import TensorSpec

SPECS = (
    TensorSpec("model.embed_tokens.weight", "BF16", (100, 64)),
    TensorSpec("model.layers.0.mlp.up_proj.weight", "BF16", (128, 64)),
    TensorSpec("model.norm.weight", "F32", (64,)),
)
BASE_CONFIG = json.dumps({"model_type": "llama", "hidden_size": 64, "vocab_size": 100}).encode()
FINISH_S = 60.0


@dataclass(slots=True)
class World:
    root: Path
    database: Database
    store: WeightStore
    settings: Settings
    reconciler: IngestReconciler
    s3: S3Server

    async def sync(self, uri: str, **org: str) -> Row[Any]:
        """Upload and wait for the end."""
        return await self.finished(await self.upload(uri, **org))

    async def upload(
        self, uri: str, *, external_id: str | None = None, role_arn: str | None = None
    ) -> str:
        version_id = new_uuid()
        async with self.database.begin() as tx:
            await tx.execute(
                text("UPDATE orgs SET s3_external_id = :id, s3_role_arn = :role"),
                {"id": external_id or self.s3.external_id, "role": role_arn},
            )
            await tx.execute(
                text(
                    """
                    INSERT INTO model_versions (id, org_id, arch_id, number, weight_uri, status, created_at, updated_at)
                    SELECT :id, 'org_1', 'tiny', count(*) + 1, :uri, 'queued', now(), now() FROM model_versions
                    """
                ),
                {"id": version_id, "uri": uri},
            )
        return version_id

    async def finished(self, version_id: str) -> Row[Any]:
        """Run passes until the sync has ended."""
        limit = time.monotonic() + FINISH_S
        while time.monotonic() < limit:
            await self.reconciler.reconcile()
            row = await self.row(version_id)
            if row.status in ("done", "error", "cancelled"):
                await self.reconciler.idle()
                return row
            await asyncio.sleep(0.02)
        raise AssertionError(f"not finished: {await self.row(version_id)}")

    async def row(self, version_id: str) -> Row[Any]:
        async with self.database.begin() as tx:
            query = text("SELECT * FROM model_versions WHERE id = :id")
            return (await tx.execute(query, {"id": version_id})).one()

    async def files(self, version_id: str) -> Sequence[Row[Any]]:
        async with self.database.begin() as tx:
            query = text("SELECT * FROM sync_files WHERE version_id = :id ORDER BY path")
            return (await tx.execute(query, {"id": version_id})).all()

    async def execute(self, statement: str) -> None:
        async with self.database.begin() as tx:
            await tx.execute(text(statement))

    def parts_with(self, **limits: float) -> SyncParts:
        parts = self.reconciler._parts
        return replace(parts, limits=replace(parts.limits, **limits))

    @asynccontextmanager
    async def another(self) -> AsyncIterator[IngestReconciler]:
        """A second control plane on the same database and store."""
        access = S3Access(self.settings)
        reconciler = IngestReconciler(self.database, self.store, access, Clock(), self.settings)
        try:
            yield reconciler
        finally:
            await reconciler.close()


@asynccontextmanager
async def start_world(
    s3: S3Server,
    database: Database,
    directory: Path,
    specs: Sequence[TensorSpec] = SPECS,
    **settings: Any,
) -> AsyncIterator[World]:
    chosen: dict[str, Any] = {
        "s3_endpoint_url": s3.endpoint_url,
        "s3_role_arn": s3.role_arn,
        "sync_access_retry_s": 0.0,
        "sync_stall_s": 5.0,
        "sync_disk_wait_s": 0.0,
        "sync_parts_parallel": 4,
        "disk_free_min_share": 0.0,
        **settings,
    }
    made = Settings(data_dir=directory, **chosen)
    store = open_store(made, "test", LoadMarks(directory / "marks"), lambda: ())
    await register(database, store, s3, specs)
    reconciler = IngestReconciler(database, store, S3Access(made), Clock(), made)
    try:
        yield World(directory / "store", database, store, made, reconciler, s3)
    finally:
        await reconciler.close()


async def register(
    database: Database, store: WeightStore, s3: S3Server, specs: Sequence[TensorSpec]
) -> None:
    files = {"config.json": BASE_CONFIG, "tokenizer.json": b"{}"}
    entries = [(name, *store.put_bytes(content)) for name, content in files.items()]
    base = Manifest.of(FileEntry(name, size, digest) for name, digest, size in entries)
    store.publish(base)
    async with database.begin() as tx:
        await tx.execute(
            text(
                "INSERT INTO orgs (id, name, s3_external_id, created_at) VALUES ('org_1', 'acme', :external_id, now())"
            ),
            {"external_id": s3.external_id},
        )
        await tx.execute(
            text(
                """
                INSERT INTO architectures (id, source_uri, base_digest, tensors, engine, created_at, updated_at)
                VALUES ('tiny', '/base', :digest, CAST(:tensors AS jsonb), '{}', now(), now())
                """
            ),
            {
                "digest": base.digest,
                "tensors": json.dumps([[s.name, s.dtype, list(s.shape)] for s in specs]),
            },
        )
