"""Staged files: past the page cache where the file system allows, and byte for byte the same where it does not."""

import errno
import os
from pathlib import Path

import pytest

from weighbridge.ingest.pump.buffers import TOTAL_BYTES_MAX, Buffer, buffer_bytes
from weighbridge.ingest.pump.writer import StagedWriter
from weighbridge.ingest.s3.faults import SourceError
from weighbridge.weights.disk.uncached import ALIGNMENT_BYTES

SIZE_BYTES = 2 * ALIGNMENT_BYTES + 77
CONTENT = os.urandom(SIZE_BYTES)


def filled(content: bytes) -> Buffer:
    buffer = Buffer(4 * ALIGNMENT_BYTES)
    buffer.room(len(content))[:] = content
    buffer.took(len(content))
    return buffer


def write(path: Path) -> StagedWriter:
    writer = StagedWriter(path)
    writer.write(filled(CONTENT), 0)
    writer.write(filled(CONTENT[:5]), 4 * ALIGNMENT_BYTES)
    writer.finish(4 * ALIGNMENT_BYTES + 5)
    return writer


def check(path: Path, writer: StagedWriter) -> None:
    expected = CONTENT + bytes(4 * ALIGNMENT_BYTES - SIZE_BYTES) + CONTENT[:5]
    buffer = Buffer(ALIGNMENT_BYTES)
    assert b"".join(map(bytes, writer.read(buffer, 0, len(expected)))) == expected
    writer.close()
    assert path.read_bytes() == expected


def test_what_is_written_is_what_lies_there_whatever_the_alignment(tmp_path: Path) -> None:
    check(tmp_path / "file", write(tmp_path / "file"))


def test_a_file_system_that_refuses_the_open_is_written_through_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def refusing(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "no O_DIRECT here")
        return opened(path, flags, mode)

    monkeypatch.setattr("weighbridge.weights.disk.uncached.os.open", refusing)
    writer = write(tmp_path / "file")
    assert not writer.direct
    monkeypatch.undo()
    check(tmp_path / "file", writer)


def test_a_file_system_that_refuses_a_write_is_written_through_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = os.pwrite
    refused: list[int] = []

    def refusing(descriptor: int, content: memoryview, at: int) -> int:
        if not refused:
            refused.append(at)
            raise OSError(errno.EINVAL, "another alignment")
        return written(descriptor, content, at)

    monkeypatch.setattr("weighbridge.weights.disk.uncached.os.pwrite", refusing)
    writer = StagedWriter(tmp_path / "file")
    was_direct = writer.direct
    if not was_direct:
        pytest.skip("this file system has no O_DIRECT")
    writer.close()
    check(tmp_path / "file", write(tmp_path / "file"))
    assert refused


def test_a_full_disk_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    writer = StagedWriter(tmp_path / "file")
    monkeypatch.setattr("weighbridge.weights.disk.uncached.os.pwrite", full)
    with pytest.raises(SourceError) as refusal:
        writer.write(filled(b"x"), 0)
    writer.close()
    assert refusal.value.code == "DISK_FULL"


@pytest.mark.parametrize("users", range(1, 65))
def test_all_buffers_together_stay_below_their_bound(users: int) -> None:
    size = buffer_bytes(users)
    assert size % ALIGNMENT_BYTES == 0
    assert size * users <= TOTAL_BYTES_MAX
