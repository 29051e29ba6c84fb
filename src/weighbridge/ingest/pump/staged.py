"""One file on its way into staging: an order, its parts so far, and what it is once it is whole."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from weighbridge.ingest.model import PinnedFile
from weighbridge.ingest.pulse import Pulse
from weighbridge.ingest.pump.buffers import Buffer
from weighbridge.ingest.pump.journal import Journal
from weighbridge.ingest.pump.sums import Part, Stated, Sums
from weighbridge.ingest.pump.throttle import Throttle
from weighbridge.ingest.pump.writer import StagedWriter, write_small
from weighbridge.ingest.s3.faults import SourceError
from weighbridge.weights.digest import HASH_PART_BYTES, combine, part_count
from weighbridge.weights.disk.uncached import ALIGNMENT_BYTES


class RangeReader(Protocol):
    def stream(
        self, file: PinnedFile, start: int, end: int, room: Callable[[int], memoryview]
    ) -> Iterator[memoryview]:
        """Exactly the bytes [start, end) of the pinned object, each piece in what `room` gave; retries by itself."""
        ...


class Entry(StrEnum):
    """What an order finds at its turn (W7): nobody else has it, another sync does, or its blob is there by now."""

    MINE = "mine"
    BUSY = "busy"
    HERE = "here"


@dataclass(frozen=True, slots=True)
class FetchOrder:
    """`check(staged)` may raise SourceError CHECKSUM for content that is not what the verdict was about.

    `enter` is asked before the first byte; after MINE, `leave` is called once the file is done with. Of a large
    file `take_room` is asked in between; SourceError DISK_FULL.
    """

    file: PinnedFile
    staged: Path
    check: Callable[[Path], None]
    enter: Callable[[], Entry] = lambda: Entry.MINE
    leave: Callable[[], None] = lambda: None
    take_room: "Callable[[FetchOrder], None]" = lambda _: None


@dataclass(frozen=True, slots=True)
class Whole:
    """A file that lies verified in staging; it may not be durable yet."""

    file: PinnedFile
    staged: Path
    digest: str


@dataclass(frozen=True, slots=True)
class Flow:
    """What every worker reads with."""

    source: RangeReader
    pulse: Pulse
    throttle: Throttle

    def pieces(
        self, file: PinnedFile, start: int, end: int, buffer: Buffer
    ) -> Iterator[memoryview]:
        """The pieces of a range, each taken into `buffer`, at the pace the org may have."""
        for piece in self.source.stream(file, start, end, buffer.room):
            buffer.took(len(piece))
            yield piece
            if (wait_s := self.throttle.wait_s(len(piece))) > 0:
                self.pulse.pause(wait_s)


class Staged:
    """Its descriptor, its parts and its journal. Workers call `obtain` and `finish`, its owner the rest."""

    def __init__(self, order: FetchOrder) -> None:
        self.order = order
        self.part_count = part_count(order.file.size_bytes)
        self._stated = Stated.parse(order.file.checksum)
        self._parts: dict[int, Part] = {}
        self._journal = Journal(order.staged)
        self._writer = StagedWriter(order.staged)

    def obtain(self, index: int, flow: Flow, buffer: Buffer) -> Part:
        """Read back what the journal has of a part, and fetch the rest."""
        flow.pulse.check()
        start, end = self._bounds(index)
        sums = self._read_back(index, buffer)
        if sums.size_bytes == end - start:
            flow.pulse.beat()
        else:
            self._fetch(index, sums, flow, buffer)
            assert sums.size_bytes == end - start
        part = sums.part(index)
        flow.pulse.add_done(part.size_bytes)
        return part

    def accept(self, part: Part) -> bool:
        """Take a part; True when it was the last one missing."""
        self._parts[part.index] = part
        return len(self._parts) == self.part_count

    def finish(self) -> Whole:
        """Verify the whole file; SourceError CHECKSUM."""
        file = self.order.file
        self._writer.finish(file.size_bytes)
        self._writer.close()
        parts = [self._parts[index] for index in range(self.part_count)]
        verify(self.order, self._stated, parts)
        return Whole(file, self.order.staged, combine([part.digest for part in parts]))

    def discard(self) -> None:
        """Forget all parts: what lies in staging is wrong, or has become a blob."""
        self._journal.remove()

    def close(self) -> None:
        self._writer.close()
        self._journal.close()
        self.order.leave()

    def _bounds(self, index: int) -> tuple[int, int]:
        start = index * HASH_PART_BYTES
        return start, min(start + HASH_PART_BYTES, self.order.file.size_bytes)

    def _read_back(self, index: int, buffer: Buffer) -> Sums:
        """The sums of as much of the part as lies in staging and is what was noted; else of nothing."""
        start, end = self._bounds(index)
        noted = self._journal.found.get(index)
        sums = self._sums()
        if noted is None or not _may_go_on(noted.size_bytes, end - start):
            return sums
        for piece in self._writer.read(buffer, start, start + noted.size_bytes):
            sums.add(piece)
        return sums if sums.digest().hex() == noted.digest else self._sums()

    def _fetch(self, index: int, sums: Sums, flow: Flow, buffer: Buffer) -> None:
        """From where `sums` ends; each buffer is noted once it is written, so that no more than one is lost (W6)."""
        start, end = self._bounds(index)
        at = start + sums.size_bytes
        for piece in flow.pieces(self.order.file, at, end, buffer):
            sums.add(piece)
            if buffer.full or start + sums.size_bytes == end:
                self._writer.write(buffer, at)
                at = start + sums.size_bytes
                buffer.clear()
                self._journal.note(index, sums.size_bytes, sums.digest())

    def _sums(self) -> Sums:
        return Sums(None if self._stated is None else self._stated.algorithm)


def _may_go_on(noted_bytes: int, part_bytes: int) -> bool:
    """Whether a write may go on behind what was noted: it has to start at a multiple of the alignment."""
    return noted_bytes == part_bytes or (
        0 < noted_bytes < part_bytes and noted_bytes % ALIGNMENT_BYTES == 0
    )


def fetch_small(order: FetchOrder, flow: Flow, buffer: Buffer) -> Whole:
    """Fetch a file that fits into a buffer: one request, one write, no journal. SourceError CHECKSUM."""
    flow.pulse.check()
    stated = Stated.parse(order.file.checksum)
    sums = Sums(None if stated is None else stated.algorithm)
    buffer.clear()
    for piece in flow.pieces(order.file, 0, order.file.size_bytes, buffer):
        sums.add(piece)
    write_small(order.staged, buffer.content)
    parts = [sums.part(0)] if order.file.size_bytes else []
    verify(order, stated, parts)
    flow.pulse.add_done(order.file.size_bytes)
    return Whole(order.file, order.staged, combine([part.digest for part in parts]))


def verify(order: FetchOrder, stated: Stated | None, parts: list[Part]) -> None:
    """SourceError CHECKSUM unless the file is what S3 states and what the verdict was about."""
    if stated is not None and not stated.is_of(parts):
        raise SourceError(
            f"{order.file.key} does not have the checksum that S3 states for it "
            f"({order.file.checksum}). Upload the file to the bucket again.",
            code="CHECKSUM",
        )
    order.check(order.staged)
