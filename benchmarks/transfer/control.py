"""The ingest part of a control plane, to be killed: `control.py <database url> <store> <settings as JSON>`."""

import asyncio
import sys
from pathlib import Path

from weighbridge.clock import Clock
from weighbridge.control.loop import Loop
from weighbridge.control.wake import Wake
from weighbridge.ingest.reconciler import IngestReconciler
from weighbridge.ingest.s3.access import S3Access
from weighbridge.settings import Settings
from weighbridge.storage.database import Database
from weighbridge.weights.filesystem import FilesystemStore

HOLDER = "benchmark"
"""Always the same, so that the next one goes on at once with what a killed one had claimed."""


async def main(url: str, store: Path, settings: Settings) -> None:
    reconciler = IngestReconciler(
        Database(url), FilesystemStore(store), S3Access(settings), Clock(), settings, holder=HOLDER
    )
    await Loop("ingest", reconciler.reconcile, Wake()).run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), Settings.model_validate_json(sys.argv[3])))
