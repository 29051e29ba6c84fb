"""A file that parts are written to at their places, past the page cache where the file system allows it.

Written through the cache, a fetch costs several times the processor time, and is slowed down by the kernel.
"""

import errno
import fcntl
import mmap
import os
from pathlib import Path
from queue import SimpleQueue
from typing import Self

from weighbridge.weights.digest import HASH_PART_BYTES

ALIGNMENT_BYTES = 4096
_REFUSALS = frozenset([errno.EINVAL, errno.EOPNOTSUPP])
"""What a file system answers that does not do O_DIRECT, or not with this alignment."""


class Buffers:
    """So many aligned buffers of a part each, for as many threads; the memory is taken when it is first used."""

    def __init__(self, count: int) -> None:
        self.free: SimpleQueue[mmap.mmap] = SimpleQueue()
        for _ in range(count):
            self.free.put(mmap.mmap(-1, HASH_PART_BYTES))


class PartFile:
    """Many threads may use different places, which begin at multiples of HASH_PART_BYTES; `close` it."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            direct = os.O_DIRECT if size_bytes >= HASH_PART_BYTES else 0
            self._descriptor = os.open(path, flags | direct, 0o600)
        except OSError as error:
            if error.errno not in _REFUSALS:
                raise
            self._descriptor = os.open(path, flags, 0o600)

    def write(self, buffer: mmap.mmap, count: int, at: int) -> None:
        """The first `count` bytes of the buffer; what is written past the end is cut by `finish`."""
        with memoryview(buffer) as whole:
            left = whole[: -(-count // ALIGNMENT_BYTES) * ALIGNMENT_BYTES]
            while left:
                try:
                    written = os.pwrite(self._descriptor, left, at)
                except OSError as error:
                    self._go_through_the_cache(error)
                    continue
                left, at = left[written:], at + written

    def read(self, buffer: mmap.mmap, count: int, at: int) -> bool:
        """Fill the first `count` bytes of the buffer; False when the file ends before."""
        with memoryview(buffer) as whole:
            wanted = whole[: -(-count // ALIGNMENT_BYTES) * ALIGNMENT_BYTES]
            while True:
                try:
                    return os.preadv(self._descriptor, [wanted], at) >= count
                except OSError as error:
                    self._go_through_the_cache(error)

    def finish(self) -> None:
        os.ftruncate(self._descriptor, self._size_bytes)

    def close(self) -> None:
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _go_through_the_cache(self, error: OSError) -> None:
        """Raises the error again if that is not what it asks for."""
        flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
        if error.errno not in _REFUSALS or not flags & os.O_DIRECT:
            raise error
        fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags & ~os.O_DIRECT)
