"""Figures of the control plane for the operator's metrics: syncs by state, what they moved, and room in the store.

They lie in a file beside the gateway's, whose probe port shows both; nothing is lost with it.
"""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

from weighbridge.ingest.model import SyncFigures
from weighbridge.ingest.store import sync_figures
from weighbridge.storage.database import Database
from weighbridge.telemetry.histogram import Histogram
from weighbridge.weights.base import WeightStore

PERIOD_S = 5.0
VERDICT_SECONDS = "weighbridge_sync_verdict_seconds"


class FiguresWriter:
    """One pass asks the database and the store, and writes the file."""

    def __init__(
        self, database: Database, store: WeightStore, path: Path, verdicts: Histogram
    ) -> None:
        """`verdicts` are the seconds that this process's syncs took from their claim to their verdict."""
        self._database = database
        self._store = store
        self._path = path
        self._verdicts = verdicts

    async def reconcile(self) -> float:
        async with self._database.begin() as tx:
            syncs = await sync_figures(tx)
        await asyncio.to_thread(self._write, syncs)
        return PERIOD_S

    def _write(self, syncs: SyncFigures) -> None:
        text = prometheus_text(syncs, self._store.free_bytes(), self._store.total_bytes())
        text += "".join(f"{line}\n" for line in self._verdicts.lines(VERDICT_SECONDS))
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        temporary.write_text(text)
        temporary.chmod(0o600)
        temporary.replace(self._path)


def prometheus_text(syncs: SyncFigures, free_bytes: int, total_bytes: int) -> str:
    """Text format 0.0.4; all are gauges, for versions that are deleted leave the sums."""
    lines: list[str] = []
    named = ""
    for name, labels, value in _samples(syncs, free_bytes, total_bytes):
        if name != named:
            lines.append(f"# TYPE weighbridge_{name} gauge")
            named = name
        lines.append(f"weighbridge_{name}{labels} {value}")
    return "\n".join(lines) + "\n"


def _samples(
    syncs: SyncFigures, free_bytes: int, total_bytes: int
) -> Iterator[tuple[str, str, int]]:
    for status, count in sorted(syncs.by_status.items()):
        yield "syncs", f'{{status="{status}"}}', count
    for code, count in sorted(syncs.by_error.items()):
        yield "sync_errors", f'{{code="{code}"}}', count
    yield "sync_bytes", "", syncs.bytes_done
    yield "sync_files", "", syncs.files_done
    yield "sync_retries", "", syncs.retries
    yield "sync_bytes_per_second", "", syncs.bytes_per_s
    yield "store_free_bytes", "", free_bytes
    yield "store_disk_bytes", "", total_bytes
