"""Converted weights on a node's disk: one file per version, converter and type, made once."""

import fcntl
import os
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from weighbridge.errors import InvalidError

CONVERTER_VERSION = 1
"""Raised with any change of what the converter writes, so that no old file is used."""
DTYPES = ("auto", "float32")
"""`auto` keeps each tensor's own type, `float32` widens all of them."""
FOLDER = "gguf"
_MADE_OF = re.compile(r"(?P<digest>[0-9a-f]{64})\.v[0-9]+\.")


def cached_gguf(folder: Path, digest: str, cache_dir: Path, dtype: str = "auto") -> Path:
    """The GGUF file of the version in `folder`, whose manifest has `digest`; converted when absent.

    Safe to call from several processes at once: one converts, the others wait for it. Raises
    InvalidError for weights that the converter does not support, OSError when the disk is full.
    """
    if dtype not in DTYPES:
        raise InvalidError(
            f"dtype {dtype!r} is not supported by llamacpp: use {' or '.join(DTYPES)}"
        )
    target = converted_path(digest, cache_dir, dtype)
    directory = target.parent
    directory.mkdir(parents=True, exist_ok=True)
    if target.exists():
        return target
    with _locked(directory / f"{target.name}.lock"):
        if not target.exists():
            _convert(folder, target, digest, dtype)
    return target


def converted_path(digest: str, cache_dir: Path, dtype: str) -> Path:
    """Where the converted weights of a version lie once they are made."""
    return cache_dir / FOLDER / f"{digest}.v{CONVERTER_VERSION}.{dtype}.gguf"


def sweep_converted(cache_dir: Path, published: Callable[[], Collection[str]]) -> int:
    """Remove what was made of versions that the weight store has no longer (V7); how many files went.

    `published` is asked after the files are listed: a version is published before it is converted, so what
    is listed and not published was deleted, and is not merely new. An engine keeps what it has open.
    """
    try:
        listed = {path: _MADE_OF.match(path.name) for path in (cache_dir / FOLDER).iterdir()}
    except FileNotFoundError:
        return 0
    kept = frozenset(published())
    gone = [path for path, made in listed.items() if made and made["digest"] not in kept]
    for path in gone:
        path.unlink(missing_ok=True)
    return len(gone)


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
