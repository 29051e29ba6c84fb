"""The pump: whole files, parts kept over an interruption, bounded memory, and the disk reserved first (W6, W9)."""

import base64
import errno
import io
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import awscrt.checksums
import pytest
from blake3 import blake3

from weighbridge.ingest.model import PinnedFile
from weighbridge.ingest.pulse import Pulse
from weighbridge.ingest.pump.buffers import BUFFER_BYTES_MAX
from weighbridge.ingest.pump.fetch import fetch
from weighbridge.ingest.pump.journal import Journal, Noted
from weighbridge.ingest.pump.room import reserve
from weighbridge.ingest.pump.staged import Entry, FetchOrder, Whole
from weighbridge.ingest.pump.throttle import BURST_S, Throttle
from weighbridge.ingest.s3.faults import SourceError
from weighbridge.weights.digest import HASH_PART_BYTES, content_digest

CHUNK_BYTES = 1024 * 1024
SIZE_BYTES = 2 * HASH_PART_BYTES + 12345


class Memory:
    """A source whose objects lie in memory; it can fail after some chunks, once."""

    def __init__(self, objects: dict[str, bytes], fail_after: int | None = None) -> None:
        self.objects = objects
        self.fail_after = fail_after
        self.served = 0

    def stream(
        self, file: PinnedFile, start: int, end: int, room: Callable[[int], memoryview]
    ) -> Iterator[memoryview]:
        for at in range(start, end, CHUNK_BYTES):
            if self.fail_after is not None and self.served >= self.fail_after:
                raise SourceError("gone", code="UNREACHABLE")
            self.served += 1
            content = self.objects[file.key][at : min(end, at + CHUNK_BYTES)]
            view = room(len(content))
            view[:] = content
            yield view


def content_of(size: int, seed: int = 0) -> bytes:
    unit = bytes((at * at + seed) % 251 for at in range(4093))
    return (unit * (size // len(unit) + 1))[:size]


def order(tmp_path: Path, key: str, content: bytes, checksum: str | None = None) -> FetchOrder:
    file = PinnedFile(key, key, len(content), '"e"', None, checksum)
    return FetchOrder(file, tmp_path / key, lambda staged: None)


def pull(source: Memory, orders: list[FetchOrder], workers: int = 4) -> dict[str, str]:
    digests: dict[str, str] = {}

    def finished(wholes: Sequence[Whole]) -> None:
        digests.update({whole.file.key: whole.digest for whole in wholes})

    pulse = Pulse(time.monotonic)
    fetch(source, orders, pulse, workers=workers, tries_max=3, finished=finished)
    assert pulse.bytes_done == sum(o.file.size_bytes for o in orders)
    return digests


def crc64(content: bytes) -> str:
    return f"crc64nvme:{base64.b64encode(awscrt.checksums.crc64nvme(content).to_bytes(8, 'big')).decode()}"


def test_files_arrive_whole_with_the_digest_of_their_content(tmp_path: Path) -> None:
    objects = {"big": content_of(SIZE_BYTES), "small": b"x", "part": content_of(HASH_PART_BYTES)}
    orders = [order(tmp_path, key, content, crc64(content)) for key, content in objects.items()]
    digests = pull(Memory(objects), orders)
    for key, content in objects.items():
        assert (tmp_path / key).read_bytes() == content
        assert digests[key] == content_digest(content)
    assert not list(tmp_path.glob("*.journal"))


def test_after_an_interruption_only_unfinished_and_damaged_parts_are_fetched(
    tmp_path: Path,
) -> None:
    content = content_of(SIZE_BYTES)
    orders = [order(tmp_path, "big", content)]
    broken = Memory({"big": content}, fail_after=32)
    with pytest.raises(SourceError):
        pull(broken, orders, workers=1)
    with (tmp_path / "big").open("r+b") as file:
        file.seek(100)
        file.write(b"damage")
    with (tmp_path / "big.journal").open("ab") as journal:
        journal.write(b'{"part":2,"bl')
    again = Memory({"big": content})
    assert pull(again, orders)["big"] == content_digest(content)
    # Part 0 was damaged, part 1 kept, part 2 (one chunk) never ended.
    assert again.served == HASH_PART_BYTES // CHUNK_BYTES + 1


class Recorded(Memory):
    """Keeps the ranges it was asked for."""

    def __init__(self, objects: dict[str, bytes], fail_after: int | None = None) -> None:
        super().__init__(objects, fail_after)
        self.ranges: list[tuple[int, int]] = []

    def stream(
        self, file: PinnedFile, start: int, end: int, room: Callable[[int], memoryview]
    ) -> Iterator[memoryview]:
        self.ranges.append((start, end))
        yield from super().stream(file, start, end, room)


def test_large_files_wait_for_the_room_that_others_make(tmp_path: Path) -> None:
    objects = {f"big-{number}": content_of(SIZE_BYTES, number) for number in range(4)}
    done: set[str] = set()
    taken: list[str] = []

    def take_room(order: FetchOrder) -> None:
        if len(set(taken) - done) >= 2:
            raise SourceError("full", code="DISK_FULL")
        taken.append(order.file.key)

    def finished(wholes: Sequence[Whole]) -> None:
        done.update(whole.file.key for whole in wholes)

    orders = [
        replace(order(tmp_path, key, content), take_room=take_room)
        for key, content in objects.items()
    ]
    pulse = Pulse(time.monotonic)
    fetch(Memory(objects), orders, pulse, workers=8, tries_max=1, finished=finished)
    assert (sorted(taken), done) == (sorted(objects), set(objects))


def test_a_large_file_that_nothing_makes_room_for_is_refused(tmp_path: Path) -> None:
    def take_room(_: FetchOrder) -> None:
        raise SourceError("full", code="DISK_FULL")

    left: list[str] = []
    content = content_of(SIZE_BYTES)
    asked = replace(
        order(tmp_path, "big", content), take_room=take_room, leave=lambda: left.append("big")
    )
    source = Memory({"big": content})
    with pytest.raises(SourceError, match="full"):
        pull(source, [asked])
    assert (source.served, left) == (0, ["big"])


def test_an_interrupted_part_goes_on_behind_the_last_buffer_that_was_written(
    tmp_path: Path,
) -> None:
    content = content_of(SIZE_BYTES)
    orders = [order(tmp_path, "big", content, crc64(content))]
    written = BUFFER_BYTES_MAX // CHUNK_BYTES
    with pytest.raises(SourceError):
        pull(Memory({"big": content}, fail_after=2 * written + 1), orders, workers=1)
    again = Recorded({"big": content})
    assert pull(again, orders)["big"] == content_digest(content)
    assert min(again.ranges) == (2 * BUFFER_BYTES_MAX, HASH_PART_BYTES)


def test_an_interrupted_part_whose_bytes_were_damaged_is_fetched_whole(tmp_path: Path) -> None:
    content = content_of(SIZE_BYTES)
    orders = [order(tmp_path, "big", content)]
    with pytest.raises(SourceError):
        pull(Memory({"big": content}, fail_after=10), orders, workers=1)
    with (tmp_path / "big").open("r+b") as file:
        file.write(b"damage")
    again = Recorded({"big": content})
    assert pull(again, orders)["big"] == content_digest(content)
    assert min(again.ranges) == (0, HASH_PART_BYTES)


@pytest.mark.parametrize("size_bytes", [-1, 0, 4097, HASH_PART_BYTES + 1])
def test_a_note_of_an_impossible_length_is_no_note(size_bytes: int, tmp_path: Path) -> None:
    content = content_of(SIZE_BYTES)
    journal = Journal(tmp_path / "big")
    journal.note(0, size_bytes, blake3(content[: max(0, size_bytes)]).digest())
    journal.close()
    again = Recorded({"big": content})
    digest = pull(again, [order(tmp_path, "big", content)])["big"]
    assert digest == content_digest(content)
    assert (0, HASH_PART_BYTES) in again.ranges


def test_the_first_failure_is_told_and_what_its_siblings_had_finished_is_kept(
    tmp_path: Path,
) -> None:
    first_done = threading.Event()

    class Failing(Memory):
        """The second part fails at once, and the first one ends only after that."""

        def stream(
            self, file: PinnedFile, start: int, end: int, room: Callable[[int], memoryview]
        ) -> Iterator[memoryview]:
            if start == HASH_PART_BYTES:
                raise SourceError("gone", code="SOURCE_CHANGED")
            if start == 0:
                assert failing.wait(10)
                yield from super().stream(file, start, end, room)
                first_done.set()
            else:
                yield from super().stream(file, start, end, room)

    content = content_of(SIZE_BYTES)
    failing = threading.Event()

    class Watched(Pulse):
        def stop(self, cause: Exception) -> None:
            failing.set()
            assert first_done.wait(10)
            super().stop(cause)

    with pytest.raises(SourceError, match="gone"):
        fetch(
            Failing({"big": content}),
            [order(tmp_path, "big", content)],
            Watched(time.monotonic),
            workers=4,
            tries_max=3,
            finished=lambda wholes: None,
        )
    again = Recorded({"big": content})
    assert pull(again, [order(tmp_path, "big", content)])["big"] == content_digest(content)
    assert again.ranges == [(HASH_PART_BYTES, 2 * HASH_PART_BYTES)]


def test_a_journal_that_the_disk_does_not_take_is_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.FileIO):
        def write(self, content: object) -> int:
            raise OSError(errno.ENOSPC, "full")

    journal = Journal(tmp_path / "file")
    journal._file.close()
    monkeypatch.setattr(journal, "_file", Full(tmp_path / "file.journal", "a"))
    with pytest.raises(SourceError) as refusal:
        journal.note(0, 1, b"\1" * 32)
    journal.close()
    assert refusal.value.code == "DISK_FULL"


@pytest.mark.parametrize("algorithm", ["crc64nvme", "crc32c", "crc32"])
def test_parts_combine_to_the_checksum_of_the_whole_object(algorithm: str, tmp_path: Path) -> None:
    content = content_of(SIZE_BYTES)
    value = getattr(awscrt.checksums, algorithm)(content)
    width = 8 if algorithm == "crc64nvme" else 4
    stated = f"{algorithm}:{base64.b64encode(value.to_bytes(width, 'big')).decode()}"
    assert pull(Memory({"big": content}), [order(tmp_path, "big", content, stated)])
    (tmp_path / "again").mkdir()
    wrong = [order(tmp_path / "again", "big", content, crc64(b"something else"))]
    source = Memory({"big": content})
    with pytest.raises(SourceError) as refusal:
        pull(source, wrong)
    assert refusal.value.code == "CHECKSUM"
    assert source.served == 3 * (SIZE_BYTES // CHUNK_BYTES + 1)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    class Zeros(Memory):
        def stream(
            self, file: PinnedFile, start: int, end: int, room: Callable[[int], memoryview]
        ) -> Iterator[memoryview]:
            for at in range(start, end, CHUNK_BYTES):
                yield room(min(end - at, CHUNK_BYTES))

    file = PinnedFile("zeros", "zeros", 256 * 1024 * 1024, '"e"', None)
    tracemalloc.start()
    try:
        pull(Zeros({}), [FetchOrder(file, tmp_path / "zeros", lambda staged: None)], workers=4)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 4 * 3 * CHUNK_BYTES


def test_space_is_taken_before_the_first_byte_or_refused_with_figures(tmp_path: Path) -> None:
    orders = [order(tmp_path, "big", content_of(SIZE_BYTES))]
    with pytest.raises(SourceError) as refusal:
        reserve(orders, free_bytes=SIZE_BYTES - 1, keep_free_bytes=0)
    assert refusal.value.code == "DISK_FULL"
    assert "needs 0.03 GB" in refusal.value.message
    assert not (tmp_path / "big").exists()
    reserve(orders, free_bytes=SIZE_BYTES, keep_free_bytes=0)
    assert (tmp_path / "big").stat().st_blocks * 512 >= SIZE_BYTES
    # What is reserved already need not be free again.
    reserve(orders, free_bytes=0, keep_free_bytes=0)


def test_a_stopped_pulse_ends_the_fetch_with_its_cause(tmp_path: Path) -> None:
    content = content_of(SIZE_BYTES)
    pulse = Pulse(time.monotonic)
    pulse.stop(SourceError("enough", code="CANCELLED"))
    with pytest.raises(SourceError, match="enough"):
        fetch(
            Memory({"big": content}),
            [order(tmp_path, "big", content)],
            pulse,
            workers=2,
            tries_max=3,
            finished=lambda wholes: None,
        )


def test_many_small_files_are_finished_by_the_batch(tmp_path: Path) -> None:
    objects = {f"small-{number}": b"%d" % number for number in range(3000)} | {"empty": b""}
    orders = [order(tmp_path, key, content, crc64(content)) for key, content in objects.items()]
    batches: list[int] = []
    digests: dict[str, str] = {}

    def finished(wholes: Sequence[Whole]) -> None:
        batches.append(len(wholes))
        digests.update({whole.file.key: whole.digest for whole in wholes})

    pulse = Pulse(time.monotonic)
    fetch(Memory(objects), orders, pulse, workers=4, tries_max=3, finished=finished)
    assert digests == {key: content_digest(content) for key, content in objects.items()}
    assert len(batches) < 20
    assert {path.name for path in tmp_path.iterdir()} == objects.keys()


def test_a_file_another_sync_fetches_is_waited_for_and_then_taken_from_the_store(
    tmp_path: Path,
) -> None:
    content = content_of(SIZE_BYTES)
    entries = iter([Entry.BUSY, Entry.BUSY, Entry.HERE])
    waiting = replace(order(tmp_path, "big", content), enter=lambda: next(entries))
    left: list[str] = []
    own = replace(order(tmp_path, "own", content), leave=lambda: left.append("own"))
    source = Memory({"own": content, "big": content})
    assert pull(source, [waiting, own]).keys() == {"own"}
    assert left == ["own"]
    assert next(entries, None) is None


def test_a_journals_torn_line_does_not_swallow_the_next(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "file")
    journal.note(0, 7, b"\1" * 32)
    journal.close()
    with (tmp_path / "file.journal").open("ab") as file:
        file.write(b'{"part":1,"bl')
    journal = Journal(tmp_path / "file")
    journal.note(2, 9, b"\2" * 32)
    journal.close()
    again = Journal(tmp_path / "file")
    assert again.found == {0: Noted(7, "01" * 32), 2: Noted(9, "02" * 32)}
    again.close()


def test_the_cap_of_an_org_slows_its_fetch(tmp_path: Path) -> None:
    content = content_of(3 * CHUNK_BYTES)
    throttle = Throttle(4 * CHUNK_BYTES, time.monotonic)
    began = time.monotonic()
    fetch(
        Memory({"a": content}),
        [order(tmp_path, "a", content)],
        Pulse(time.monotonic),
        workers=4,
        tries_max=1,
        finished=lambda wholes: None,
        throttle=throttle,
    )
    assert time.monotonic() - began >= 3 / 4 - BURST_S
