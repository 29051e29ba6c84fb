"""Converted weights on a node's disk: one file per version, converter and type, made once."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from weighbridge.errors import InvalidError

CONVERTER_VERSION = 1
"""Raised with any change of what the converter writes, so that no old file is used."""
DTYPES = ("auto", "float32")
"""`auto` keeps each tensor's own type, `float32` widens all of them."""


def cached_gguf(folder: Path, digest: str, cache_dir: Path, dtype: str = "auto") -> Path:
    """The GGUF file of the version in `folder`, whose manifest has `digest`; converted when absent.

    Safe to call from several processes at once: one converts, the others wait for it. Raises
    InvalidError for weights that the converter does not support, OSError when the disk is full.
    """
    if dtype not in DTYPES:
        raise InvalidError(
            f"dtype {dtype!r} is not supported by llamacpp: use {' or '.join(DTYPES)}"
        )
    directory = cache_dir / "gguf"
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / f"{digest}.v{CONVERTER_VERSION}.{dtype}.gguf"
    if target.exists():
        return target
    with _locked(directory / f"{target.name}.lock"):
        if not target.exists():
            _convert(folder, target, digest, dtype)
    return target


def _convert(folder: Path, target: Path, digest: str, dtype: str) -> None:
    # Imported here: it brings in `gguf` and numpy, a third of a second that a cached start saves.
    from weighbridge.engines.gguf.writer import convert  # noqa: PLC0415

    partial = target.with_suffix(".partial")
    try:
        convert(folder, partial, digest, dtype)
        _sync(partial)
        partial.replace(target)
        _sync(target.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of one conversion; it ends with the process that holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
