"""Weighbridge's own pump from pinning to durable blobs: `ours.py <url> <folder> <directory> <name>…`."""

import json
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from weighbridge.ingest.model import ListedObject, S3Prefix
from weighbridge.ingest.pulse import Pulse
from weighbridge.ingest.pump.fetch import fetch
from weighbridge.ingest.pump.room import reserve
from weighbridge.ingest.pump.staged import FetchOrder, Whole
from weighbridge.ingest.reconciler import limits_of
from weighbridge.ingest.s3.access import S3Access
from weighbridge.ingest.s3.faults import Reader
from weighbridge.ingest.s3.source import Source
from weighbridge.settings import Settings
from weighbridge.weights.filesystem import FilesystemStore


def main(url: str, folder: str, directory: str, names: list[str]) -> dict[str, float]:
    store = FilesystemStore(Path(directory))
    settings = Settings(s3_endpoint_url=url)
    pulse = Pulse(time.monotonic)
    reader = Reader(S3Prefix("acme", folder), None, "")
    limits = limits_of(settings)
    began, cpu = time.perf_counter(), time.process_time()
    source = Source(S3Access(settings), reader, limits, pulse)
    listed = [ListedObject(f"{folder}/{name}", 0, "") for name in names]
    files = source.each(lambda item: source.pin(item, item.key.rpartition("/")[2]), listed)
    orders = [
        FetchOrder(file, store.staging_file(f"bench/{file.path}"), lambda _: None) for file in files
    ]
    reserve(orders, free_bytes=store.free_bytes(), keep_free_bytes=0)

    def finished(wholes: Sequence[Whole]) -> None:
        store.publish_blobs({whole.staged: whole.digest for whole in wholes})
        for whole in wholes:
            digests[whole.file.path] = whole.digest

    digests: dict[str, str] = {}
    fetch(source, orders, pulse, workers=limits.parts_parallel, tries_max=1, finished=finished)
    taken = {"wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}
    for name, digest in digests.items():  # so that the bytes can be compared by name
        os.link(store.blob_path(digest), Path(directory) / name)
    return taken


def peak_mib() -> float:
    """Most memory of this program; what getrusage says includes the one that started it."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024


if __name__ == "__main__":
    found = main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])
    found["rss_mib"] = peak_mib()
    print(json.dumps(found))
