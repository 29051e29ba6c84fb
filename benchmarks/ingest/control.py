"""The ingest part of a control plane: `control.py <database url> <store> <settings as JSON> [<bytes>]`.

With `bytes` it is killed with -9 in the moment its syncs have received so many, at full speed: what lies in its
buffers, or was not written down yet, is lost.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path

from weighbridge.clock import Clock
from weighbridge.control.loop import Loop
from weighbridge.control.wake import Wake
from weighbridge.ingest.pulse import Pulse
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


def die_at(bytes_received: int) -> None:
    """What a pulse counts has been read from a socket; what the kernel still holds has not."""
    beat = Pulse.beat

    def last_beat(pulse: Pulse, count: int = 0) -> None:
        beat(pulse, count)
        if pulse.bytes_received >= bytes_received:
            os.kill(os.getpid(), signal.SIGKILL)

    Pulse.beat = last_beat  # type: ignore[method-assign]  # it sees every byte of a sync


if __name__ == "__main__":
    if sys.argv[4:]:
        die_at(int(sys.argv[4]))
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), Settings.model_validate_json(sys.argv[3])))
