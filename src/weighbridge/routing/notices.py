"""The kernel's word that a directory has a new file (inotify(7)), instead of looking for one again and again."""

import asyncio
import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

log = structlog.get_logger()

IN_MOVED_TO = 0x80
EVENTS_BYTES_MAX = 16 * 1024
"""Read at once; what is left over brings the next call."""


@contextmanager
def told_of_new_files(directory: Path, on_new_file: Callable[[], None]) -> Iterator[bool]:
    """Within it the running loop calls `on_new_file` soon after files were renamed into `directory`.

    False where the kernel cannot (its limit of watches is reached): then the caller has to look by itself. Renames
    that another machine makes on a network file system are never told.
    """
    try:
        descriptor = _watch(directory)
    except OSError as error:
        log.warning(
            "notices.none", reason=error.strerror, next_step="raise fs.inotify.max_user_instances"
        )
        yield False
        return

    def read() -> None:
        os.read(descriptor, EVENTS_BYTES_MAX)
        on_new_file()

    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, read)
    try:
        yield True
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _watch(directory: Path) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0:
        raise _last_error()
    if libc.inotify_add_watch(descriptor, os.fsencode(directory), IN_MOVED_TO) < 0:
        error = _last_error()
        os.close(descriptor)
        raise error
    return descriptor


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
