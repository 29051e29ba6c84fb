"""One blob from elsewhere into a file here: in parallel parts, each hashed; a killed fetch goes on where it was."""

import mmap
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

from weighbridge.weights.digest import HASH_PART_BYTES, combine, part_count, part_digest
from weighbridge.weights.disk.space import opened_file
from weighbridge.weights.disk.uncached import UncachedFile, aligned
from weighbridge.weights.manifest import FileEntry
from weighbridge.weights.node.source import BlobSource, Check

PARTS_PARALLEL = 4
JOURNAL_SUFFIX = ".parts"
JOURNAL_BYTES_MAX = 64 * 1024 * 1024
_LINE = re.compile(rb"([0-9]{1,12}) ([0-9a-f]{64})\n")

Result = TypeVar("Result")


class WrongBytesError(Exception):
    """The bytes hash to `found`, not to the name they were asked for by."""

    def __init__(self, digest: str, found: str) -> None:
        super().__init__(f"{digest} came as {found}")
        self.digest = digest
        self.found = found


class Buffers:
    """So many aligned buffers of a part each, for as many threads; the memory is taken when it is first used."""

    def __init__(self, count: int) -> None:
        self._free: SimpleQueue[mmap.mmap] = SimpleQueue()
        for _ in range(count):
            self._free.put(mmap.mmap(-1, HASH_PART_BYTES))

    @contextmanager
    def take(self) -> Iterator[memoryview]:
        buffer = self._free.get()
        try:
            with memoryview(buffer) as memory:
                yield memory
        finally:
            self._free.put(buffer)


def fetch_blob(
    source: BlobSource,
    entry: FileEntry,
    target: Path,
    buffers: Buffers,
    *,
    check: Check,
    came: Callable[[int], None] = lambda _: None,
    kept: Callable[[int], None] = lambda _: None,
) -> None:
    """Write the blob over `target`; WrongBytesError when it is not whole.

    Parts that an earlier fetch has noted beside `target` are hashed again and kept (W6). `came` and `kept` are told
    the bytes of each part; `check` may raise to stop.
    """
    size = entry.size_bytes

    def bring(index: int) -> bytes:
        check()
        start = index * HASH_PART_BYTES
        count = min(HASH_PART_BYTES, size - start)
        with buffers.take() as buffer, buffer[:count] as content, buffer[: aligned(count)] as block:
            digest = noted.get(index)
            if digest and file.read_into(block, start) >= count and part_digest(content) == digest:
                kept(count)
                return digest
            source.read_into(entry.digest, start, content, check)
            digest = part_digest(content)
            file.write(block, start)
        os.write(journal, b"%d %s\n" % (index, digest.hex().encode()))
        came(count)
        return digest

    direct = size >= HASH_PART_BYTES
    with UncachedFile(target, direct=direct) as file, _journal(target) as journal:
        noted = _noted(journal)
        digests = in_parallel(bring, range(part_count(size)))
        file.finish(size)
    if (found := combine(digests)) != entry.digest:
        forget_parts(target)
        raise WrongBytesError(entry.digest, found)


def forget_parts(target: Path) -> None:
    """The next fetch begins anew, or there is none."""
    journal_of(target).unlink(missing_ok=True)


def journal_of(target: Path) -> Path:
    return target.with_name(target.name + JOURNAL_SUFFIX)


def in_parallel(call: Callable[[int], Result], numbers: Sequence[int]) -> list[Result]:
    """In order, PARTS_PARALLEL at a time, so that no more than those are in memory; the first failure ends it."""
    results: dict[int, Result] = {}
    with ThreadPoolExecutor(PARTS_PARALLEL, thread_name_prefix="parts") as pool:
        waiting = iter(numbers)
        running = {pool.submit(call, number): number for number in islice(waiting, PARTS_PARALLEL)}
        while running:
            ended = next(as_completed(running))
            results[running.pop(ended)] = ended.result()
            for number in islice(waiting, 1):
                running[pool.submit(call, number)] = number
    return [results[number] for number in numbers]


def _noted(journal: int) -> dict[int, bytes]:
    """By part; a line that was cut short is as none."""
    content = os.pread(journal, JOURNAL_BYTES_MAX, 0)
    return {int(found[1]): bytes.fromhex(found[2].decode()) for found in _LINE.finditer(content)}


@contextmanager
def _journal(target: Path) -> Iterator[int]:
    with opened_file(journal_of(target), os.O_RDWR | os.O_CREAT | os.O_APPEND) as descriptor:
        os.write(descriptor, b"\n")  # a line that was cut short must not swallow the next one
        yield descriptor
