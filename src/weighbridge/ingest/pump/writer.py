"""A staged file as a sync writes it: what the disk refuses becomes a fault of the sync."""

import os
from collections.abc import Iterator
from pathlib import Path

from weighbridge.ingest.pump.buffers import Buffer
from weighbridge.ingest.s3.faults import Retry, SourceError
from weighbridge.weights.disk.space import is_full, opened_file
from weighbridge.weights.disk.uncached import UncachedFile


class StagedWriter:
    """Threads may write different places of one file. Places start at multiples of the alignment."""

    def __init__(self, path: Path) -> None:
        self._file = UncachedFile(path)

    @property
    def direct(self) -> bool:
        return self._file.direct

    def write(self, buffer: Buffer, at: int) -> None:
        """All of the buffer's content at `at`. What is written past the end of the file is cut by `finish`."""
        try:
            self._file.write(buffer.padded(), at)
        except OSError as error:
            raise disk_fault(error) from error

    def read(self, buffer: Buffer, start: int, end: int) -> Iterator[memoryview]:
        """The bytes [start, end) as they lie on the disk; `start` is aligned."""
        at = start
        while at < end:
            try:
                count = self._file.read_into(buffer.memory, at)
            except OSError as error:
                raise disk_fault(error) from error
            if count == 0:
                return
            count = min(count, end - at)
            yield buffer.memory[:count]
            at += count

    def finish(self, size_bytes: int) -> None:
        """Cut off what alignment has added."""
        self._file.finish(size_bytes)

    def close(self) -> None:
        self._file.close()


def write_small(path: Path, content: memoryview) -> None:
    """Through the page cache; whoever publishes the file makes it durable, with many others at once."""
    try:
        with opened_file(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as descriptor:
            while content:
                content = content[os.write(descriptor, content) :]
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
