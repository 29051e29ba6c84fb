"""File system calls that hold over a power cut, and the removal of what may be gone already."""

import ctypes
import errno
import os
import shutil
from pathlib import Path

READ_ONLY = 0o444

_libc = ctypes.CDLL(None, use_errno=True)


def ensure_directory(path: Path) -> bool:
    """True when it was made now, so that its parent needs an fsync."""
    try:
        path.mkdir()
    except FileExistsError:
        return False
    return True


def rename_directory(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError as error:
        # Somebody published the same bytes first: theirs is as good.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def write_durably(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    path.chmod(READ_ONLY)


def fsync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file_system(path: Path) -> None:
    """syncfs(2): everything written to this file system is durable, and a failed write is reported (Linux 5.8)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(descriptor) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(path))
    finally:
        os.close(descriptor)


def fsync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
