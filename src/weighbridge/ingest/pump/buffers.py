"""Page-aligned memory that is read into, hashed while it is hot, and written from; its total is bounded."""

import contextlib
import mmap
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from weighbridge.weights.disk.uncached import ALIGNMENT_BYTES, aligned

TOTAL_BYTES_MAX = 64 * 1024 * 1024
BUFFER_BYTES_MAX = 4 * 1024 * 1024
BUFFER_BYTES_MIN = 256 * 1024


class Buffer:
    """`room` gives the next free bytes; `took` says how many were used; `content` is what is in it."""

    def __init__(self, size_bytes: int) -> None:
        assert size_bytes % ALIGNMENT_BYTES == 0
        # Private: shared memory is made of small pages whatever is advised.
        pages = mmap.mmap(-1, size_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError):  # a kernel without them
            pages.madvise(mmap.MADV_HUGEPAGE)  # fewer pages to pin for each write
        self._memory = memoryview(pages)
        self._filled = 0

    def room(self, size: int) -> memoryview:
        return self._memory[self._filled : self._filled + size]

    def took(self, count: int) -> None:
        self._filled += count

    @property
    def full(self) -> bool:
        return self._filled == len(self._memory)

    @property
    def content(self) -> memoryview:
        return self._memory[: self._filled]

    def padded(self) -> memoryview:
        """The content, with zeros up to the next aligned length."""
        end = aligned(self._filled)
        self._memory[self._filled : end] = bytes(end - self._filled)
        return self._memory[:end]

    @property
    def memory(self) -> memoryview:
        return self._memory

    def clear(self) -> None:
        self._filled = 0


class Buffers:
    """Buffers for at most `users_max` threads; memory is taken when first used, and the warmest is given first."""

    def __init__(self, users_max: int) -> None:
        self._size_bytes = buffer_bytes(users_max)
        self._free: list[Buffer] = []
        self._lock = threading.Lock()

    @contextmanager
    def take(self) -> Iterator[Buffer]:
        with self._lock:
            buffer = self._free.pop() if self._free else None
        buffer = buffer or Buffer(self._size_bytes)
        buffer.clear()
        try:
            yield buffer
        finally:
            with self._lock:
                self._free.append(buffer)


def buffer_bytes(users_max: int) -> int:
    """All buffers together stay below TOTAL_BYTES_MAX; each is whole pages."""
    share = TOTAL_BYTES_MAX // users_max // ALIGNMENT_BYTES * ALIGNMENT_BYTES
    return max(BUFFER_BYTES_MIN, min(BUFFER_BYTES_MAX, share))
