"""The control plane's figures: what the rows say, as Prometheus reads it."""

from pathlib import Path

from sqlalchemy import text

from weighbridge.server.figures import FiguresWriter
from weighbridge.storage.database import Database
from weighbridge.telemetry.histogram import Histogram
from weighbridge.weights.filesystem import FilesystemStore


async def test_syncs_and_the_store_are_told(database: Database, tmp_path: Path) -> None:
    async with database.begin() as tx:
        await tx.execute(
            text(
                "INSERT INTO orgs (id, name, s3_external_id, created_at) "
                "VALUES ('o', 'o', 'x', now())"
            )
        )
        await tx.execute(
            text(
                "INSERT INTO architectures (id, source_uri, base_digest, tensors, engine, created_at, updated_at) "
                "VALUES ('a', '/', 'd', '[]', '{}', now(), now())"
            )
        )
        for number, (status, code, rate) in enumerate(
            [("in_progress", None, 50.0), ("done", None, None), ("error", "EMPTY", None)]
        ):
            await tx.execute(
                text(
                    "INSERT INTO model_versions (id, org_id, arch_id, number, weight_uri, status, error_code, "
                    "bytes_done, files_done, retries, bytes_per_s, manifest_digest, created_at, updated_at) "
                    "VALUES (:id, 'o', 'a', :number, 's3://b/p', :status, :code, 100, 2, 1, :rate, :digest, "
                    "now(), now())"
                ),
                {
                    "id": f"v{number}",
                    "number": number + 1,
                    "status": status,
                    "code": code,
                    "rate": rate,
                    "digest": "d" if status == "done" else None,
                },
            )
    store = FilesystemStore(tmp_path / "store")
    verdicts = Histogram((1.0,))
    verdicts.note(0.5)
    await FiguresWriter(database, store, tmp_path / "control.prom", verdicts).reconcile()
    lines = (tmp_path / "control.prom").read_text().splitlines()
    for line in (
        'weighbridge_syncs{status="done"} 1',
        'weighbridge_syncs{status="in_progress"} 1',
        'weighbridge_sync_errors{code="EMPTY"} 1',
        "weighbridge_sync_bytes 300",
        "weighbridge_sync_files 6",
        "weighbridge_sync_retries 3",
        "weighbridge_sync_bytes_per_second 50",
        'weighbridge_sync_verdict_seconds_bucket{le="1.0"} 1',
        "weighbridge_sync_verdict_seconds_sum 0.5",
    ):
        assert line in lines
    assert any(line.startswith("weighbridge_store_free_bytes ") for line in lines)
