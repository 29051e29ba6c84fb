"""A file that is written at its places past the page cache where the file system allows it, and through it elsewhere.

Through the cache a fetch costs several times the processor time, and the kernel slows it down.
"""

import errno
import fcntl
import os
from pathlib import Path
from typing import Self

ALIGNMENT_BYTES = 4096
"""What O_DIRECT asks of memory, place and length on every disk in use today; mmap gives it."""
_REFUSALS = frozenset([errno.EINVAL, errno.EOPNOTSUPP])
"""What a file system answers that does not do O_DIRECT, or not with this alignment."""


def aligned(size_bytes: int) -> int:
    """The next length that may be written or read."""
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


class UncachedFile:
    """Many threads may use different places of it; memory, place and length are aligned. OSError as the disk gives it.

    `direct=False` is for files that are not worth it. Close it after use.
    """

    def __init__(self, path: Path, *, direct: bool = True) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._descriptor = os.open(path, flags | (os.O_DIRECT if direct else 0), 0o600)
        except OSError as error:
            if error.errno not in _REFUSALS:
                raise
            self._descriptor = os.open(path, flags, 0o600)

    @property
    def direct(self) -> bool:
        return bool(fcntl.fcntl(self._descriptor, fcntl.F_GETFL) & os.O_DIRECT)

    def write(self, memory: memoryview, at: int) -> None:
        """All of it; what lies past the end that the file is to have is cut off by `finish`."""
        while memory:
            try:
                count = os.pwrite(self._descriptor, memory, at)
            except OSError as error:
                self._go_through_the_cache(error)
                continue
            memory, at = memory[count:], at + count

    def read_into(self, memory: memoryview, at: int) -> int:
        """The bytes that were there; fewer than the memory holds where the file ends before."""
        while True:
            try:
                return os.preadv(self._descriptor, [memory], at)
            except OSError as error:
                self._go_through_the_cache(error)

    def finish(self, size_bytes: int) -> None:
        """Cut off what alignment has added."""
        if os.fstat(self._descriptor).st_size != size_bytes:
            os.ftruncate(self._descriptor, size_bytes)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

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
