"""One blob from a source into a file: every size whole, on file systems that take direct writes and on others."""

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from weighbridge.weights.digest import HASH_PART_BYTES, content_digest
from weighbridge.weights.disk import uncached
from weighbridge.weights.manifest import FileEntry, Manifest
from weighbridge.weights.node.fetch import (
    PARTS_PARALLEL,
    Buffers,
    WrongBytesError,
    fetch_blob,
    forget_parts,
    journal_of,
)

CONTENT = os.urandom(2 * HASH_PART_BYTES + 4097)
SIZES = (0, 1, 4095, 4096, 4097, HASH_PART_BYTES - 1, HASH_PART_BYTES, HASH_PART_BYTES + 1)


class Memory:
    """A source of one blob; `asked` are the places that were read."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.asked: list[int] = []

    def manifest(self, digest: str) -> Manifest:
        raise NotImplementedError

    def read_into(
        self, digest: str, start: int, target: memoryview, check: Callable[[], None]
    ) -> None:
        self.asked.append(start)
        target[:] = self.content[start : start + len(target)]

    def close(self) -> None: ...


def fetch(source: Memory, content: bytes, target: Path) -> None:
    entry = FileEntry("w", len(content), content_digest(content))
    fetch_blob(source, entry, target, Buffers(PARTS_PARALLEL), check=lambda: None)


@pytest.fixture(params=["as it is", "no direct files", "no direct writes"])
def file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    real_open, real_write = os.open, os.pwrite
    refused: list[int] = []

    def never(path: Path, flags: int, mode: int = 0o600) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "no such flag here")
        return real_open(path, flags, mode)

    def once(descriptor: int, content: memoryview, at: int) -> int:
        if not refused and fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            refused.append(at)
            raise OSError(errno.EINVAL, "not with this alignment")
        return real_write(descriptor, content, at)

    if request.param == "no direct files":
        monkeypatch.setattr(uncached.os, "open", never)
    if request.param == "no direct writes":
        monkeypatch.setattr(uncached.os, "pwrite", once)


@pytest.mark.parametrize("size", [*SIZES, len(CONTENT)])
def test_a_blob_of_any_size_arrives_as_it_is(size: int, tmp_path: Path, file_system: None) -> None:
    content, target = CONTENT[:size], tmp_path / "w"
    fetch(Memory(content), content, target)
    assert target.read_bytes() == content


def test_parts_that_were_noted_are_not_asked_for_again(tmp_path: Path) -> None:
    source, target = Memory(CONTENT), tmp_path / "w"
    fetch(source, CONTENT, target)
    lines = journal_of(target).read_bytes().split(b"\n")
    noted = [line for line in lines if line.startswith((b"0 ", b"2 "))]
    journal_of(target).write_bytes(b"\n".join(noted) + b"\n1 0bad")
    source.asked.clear()
    fetch(source, CONTENT, target)
    assert source.asked == [HASH_PART_BYTES]
    assert target.read_bytes() == CONTENT


def test_other_bytes_than_the_digest_s_are_refused_and_nothing_of_them_is_kept(
    tmp_path: Path,
) -> None:
    target = tmp_path / "w"
    with pytest.raises(WrongBytesError):
        fetch(Memory(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])), CONTENT, target)
    assert not journal_of(target).exists()
    source = Memory(CONTENT)
    fetch(source, CONTENT, target)
    assert len(source.asked) == 3
    forget_parts(target)
    assert not journal_of(target).exists()


def test_a_disk_that_fails_is_no_file_system_without_direct_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> int:
        raise OSError(errno.EIO, "the disk fails")

    monkeypatch.setattr(uncached.os, "pwrite", fails)
    with pytest.raises(OSError, match="the disk fails"):
        fetch(Memory(CONTENT), CONTENT, tmp_path / "w")
