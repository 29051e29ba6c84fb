"""Files of a disk: opened so that no link is followed, what they take of it, and how it says that there is no more."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FULL = frozenset([errno.ENOSPC, errno.EDQUOT])


def is_full(error: OSError) -> bool:
    return error.errno in _FULL


def allocate(path: Path, size: int) -> None:
    """Take the space now; OSError ENOSPC where there is none."""
    with opened_file(path, os.O_WRONLY | os.O_CREAT) as descriptor:
        if size:
            os.posix_fallocate(descriptor, 0, size)


def allocated_bytes(path: Path) -> int:
    """What the file takes of its disk; 0 when it is not there."""
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0


@contextmanager
def opened_file(path: Path, flags: int) -> Iterator[int]:
    """Its descriptor; a file that is made is its owner's alone, and no link is followed."""
    descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
