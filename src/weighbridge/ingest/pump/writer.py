"""A staged file that is written past the page cache where the file system allows it, and through it elsewhere."""

import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from weighbridge.ingest.pump.buffers import Buffer
from weighbridge.ingest.s3.faults import Retry, SourceError
from weighbridge.weights.disk.space import is_full

_REFUSALS = frozenset([errno.EINVAL, errno.EOPNOTSUPP])
"""What a file system answers that does not do O_DIRECT, or not with this alignment."""


class StagedWriter:
    """Threads may write different places of one file. Places start at multiples of the alignment."""

    def __init__(self, path: Path) -> None:
        self._descriptor = _open(path, direct=True)

    @property
    def direct(self) -> bool:
        return bool(fcntl.fcntl(self._descriptor, fcntl.F_GETFL) & os.O_DIRECT)

    def write(self, buffer: Buffer, at: int) -> None:
        """All of the buffer's content at `at`. What is written past the end of the file is cut by `finish`."""
        left = buffer.padded() if self.direct else buffer.content
        try:
            while left:
                try:
                    count = os.pwrite(self._descriptor, left, at)
                except OSError as error:
                    if error.errno not in _REFUSALS or not self.direct:
                        raise
                    self._go_through_the_cache()
                    continue
                left, at = left[count:], at + count
        except OSError as error:
            raise disk_fault(error) from error

    def read(self, buffer: Buffer, start: int, end: int) -> Iterator[memoryview]:
        """The bytes [start, end) as they lie on the disk; `start` is aligned."""
        at = start
        while at < end:
            try:
                count = os.preadv(self._descriptor, [buffer.memory], at)
            except OSError as error:
                if error.errno not in _REFUSALS or not self.direct:
                    raise disk_fault(error) from error
                self._go_through_the_cache()
                continue
            if count == 0:
                return
            count = min(count, end - at)
            yield buffer.memory[:count]
            at += count

    def finish(self, size_bytes: int) -> None:
        """Cut off what alignment has added."""
        if os.fstat(self._descriptor).st_size != size_bytes:
            os.ftruncate(self._descriptor, size_bytes)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _go_through_the_cache(self) -> None:
        flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
        fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags & ~os.O_DIRECT)


def _open(path: Path, *, direct: bool) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    if not direct:
        return os.open(path, flags | os.O_TRUNC, 0o600)
    try:
        return os.open(path, flags | os.O_DIRECT, 0o600)
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
    return os.open(path, flags, 0o600)


def write_small(path: Path, content: memoryview) -> None:
    """Through the page cache; whoever publishes the file makes it durable, with many others at once."""
    try:
        descriptor = _open(path, direct=False)
        try:
            while content:
                content = content[os.write(descriptor, content) :]
        finally:
            os.close(descriptor)
    except OSError as error:
        raise disk_fault(error) from error


def disk_full(needed_bytes: int, free_bytes: int, *, what: str = "these weights") -> SourceError:
    """Of the disk of this node, before anything is written."""
    return SourceError(
        f"The weight store needs {needed_bytes / 1e9:.2f} GB for {what} and has {free_bytes / 1e9:.2f} GB "
        "free. The operator must make room.",
        code="DISK_FULL",
        retry=Retry.DISK,
    )


def disk_fault(error: OSError) -> SourceError:
    """A refusal of the file system's, in the words it was given in."""
    reason = error.strerror or str(error)
    if is_full(error):
        return SourceError(
            f"The weight store's disk is full: {reason}. The operator must make room.",
            code="DISK_FULL",
            retry=Retry.DISK,
        )
    return SourceError(
        f"The weight store cannot be written: {reason}. The operator must repair it.",
        code="STORE_FAILED",
        retry=Retry.DISK,
    )
