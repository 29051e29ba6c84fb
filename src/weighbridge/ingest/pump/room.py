"""Takes this node's disk for the files of a sync before they are read (W9): for all at once, or for those under way."""

from collections.abc import Sequence

from weighbridge.ingest.pump.buffers import BUFFER_BYTES_MIN
from weighbridge.ingest.pump.staged import FetchOrder
from weighbridge.ingest.pump.writer import disk_fault, disk_full
from weighbridge.weights.base import WeightStore
from weighbridge.weights.disk.space import allocate, allocated_bytes, is_full

SMALL_BYTES_MAX = BUFFER_BYTES_MIN
"""Files up to this size are fetched and made durable many at a time, without a journal or room of their own."""


class Room:
    """Where the store keeps its blobs on this node a sync needs room for all its files; else for what is on its way."""

    def __init__(self, store: WeightStore, free_min_share: float) -> None:
        self._store = store
        self._keep_free_bytes = int(store.total_bytes() * free_min_share)

    def take_first(self, orders: Sequence[FetchOrder]) -> None:
        """Before the first byte; SourceError DISK_FULL says how much is needed, and where."""
        with self._store.locks.holding("reserve"):
            if self._store.keeps_here:
                reserve(orders, free_bytes=self._free_bytes(orders), keep_free_bytes=0)
                return
            largest = max(orders, key=_missing)
            free_bytes = self._free_bytes([largest])
            if _missing(largest) > free_bytes:
                raise disk_full(
                    _missing(largest),
                    free_bytes,
                    what="the largest file of these weights on its way",
                )

    def take(self, order: FetchOrder) -> None:
        """When it is a large file's turn. SourceError DISK_FULL."""
        if not self._store.keeps_here:
            with self._store.locks.holding("reserve"):
                reserve([order], free_bytes=self._free_bytes([order]), keep_free_bytes=0)

    def _free_bytes(self, orders: Sequence[FetchOrder]) -> int:
        self._store.make_room(sum(map(_missing, orders)))
        return max(0, self._store.free_bytes() - self._keep_free_bytes)


def reserve(orders: Sequence[FetchOrder], *, free_bytes: int, keep_free_bytes: int) -> None:
    """Take the disk space of all files before the first byte is read (W9); SourceError DISK_FULL says how much.

    The caller lets no other sync reserve meanwhile; what is taken already is no longer free for the next.
    """
    missing = sum(map(_missing, orders))
    if missing > free_bytes - keep_free_bytes:
        raise disk_full(missing, max(0, free_bytes - keep_free_bytes))
    for order in orders:
        if order.file.size_bytes > SMALL_BYTES_MAX:
            _allocate(order, missing, free_bytes)


def _missing(order: FetchOrder) -> int:
    return max(0, order.file.size_bytes - allocated_bytes(order.staged))


def _allocate(order: FetchOrder, missing: int, free_bytes: int) -> None:
    try:
        allocate(order.staged, order.file.size_bytes)
    except OSError as error:
        full = is_full(error)
        raise (disk_full(missing, free_bytes) if full else disk_fault(error)) from error
