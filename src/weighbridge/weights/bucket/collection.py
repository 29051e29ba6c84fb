"""Removal of a bucket's blobs that nobody needs, in an order that can never take one that somebody does (W8).

A bucket has no rename, so a collector condemns first: it writes a marker of its own beside the blob, then asks
who names or leases it, and removes the blob only if nobody does; the marker goes last. Whoever leases a blob
and then finds a marker waits until it is gone before he looks for the blob. So of two, one sees the other.
"""

import time
from collections.abc import Callable, Collection, Sequence

from weighbridge.weights.bucket.objects import Bucket
from weighbridge.weights.digest import content_digest
from weighbridge.weights.disk.collection import Blob, Leased

MARKER_STALE_S = 600.0
"""A marker of this age was left by a collector that died."""
BATCH_BLOBS_MAX = 500
POLL_S = 0.2
WAIT_MAX_S = MARKER_STALE_S + 60.0


def blob_key(digest: str) -> str:
    return f"blobs/{digest[:2]}/{digest}"


class BucketCollector:
    """`name` is this process's own: of two collectors neither removes the other's markers."""

    def __init__(self, bucket: Bucket, name: str, named: Callable[[], Collection[str]]) -> None:
        self._bucket = bucket
        self._name = content_digest(name.encode())[:16]
        self._named = named

    def collect(self, blobs: Sequence[Blob], leased: Leased) -> int:
        """Remove those that nothing names or leases; returns how many. Repeatable."""
        removed = 0
        for at in range(0, len(blobs), BATCH_BLOBS_MAX):
            batch = [blob.digest for blob in blobs[at : at + BATCH_BLOBS_MAX]]
            markers = [f"condemned/{digest}/{self._name}" for digest in batch]
            try:
                for marker in markers:
                    self._bucket.put(marker, b"")
                kept = set(leased()) | set(self._named())
                unused = [digest for digest in batch if digest not in kept]
                self._bucket.delete([blob_key(digest) for digest in unused])
                removed += len(unused)
            finally:
                self._bucket.delete(markers)
        return removed

    def sweep(self) -> None:
        """Remove what collectors and uploads that died have left."""
        stale = [m.key for m in self._bucket.list("condemned/") if m.age_s >= MARKER_STALE_S]
        self._bucket.delete(stale)

    def condemned(self, digest: str) -> bool:
        return any(
            marker.age_s < MARKER_STALE_S for marker in self._bucket.list(f"condemned/{digest}/")
        )

    def wait_until_spared(self, digest: str) -> None:
        """Return once no collector may still remove the blob."""
        until = time.monotonic() + WAIT_MAX_S
        while self.condemned(digest) and time.monotonic() < until:
            time.sleep(POLL_S)
