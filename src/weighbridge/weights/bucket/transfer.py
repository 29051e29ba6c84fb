"""A blob to the bucket and back, in parallel parts, hashed on the way: other bytes than its own do not arrive."""

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from itertools import count, islice
from pathlib import Path
from typing import TypeVar

from weighbridge.weights.bucket.objects import Bucket, BucketError, SentPart
from weighbridge.weights.digest import HASH_PART_BYTES, combine, content_digest, part_digest
from weighbridge.weights.manifest import FileEntry

PART_BYTES_MIN = 2 * HASH_PART_BYTES
PARTS_MAX = 10_000
"""S3's own limit."""
WHOLE_BYTES_MAX = PART_BYTES_MIN
"""A blob up to this size is sent in one request."""
PARTS_PARALLEL = 4
READ_BYTES = 1024 * 1024

Result = TypeVar("Result")


class WrongBytesError(Exception):
    """The bytes hash to `found`, not to the name they were asked for by."""

    def __init__(self, digest: str, found: str) -> None:
        super().__init__(f"{digest} came as {found}")
        self.digest = digest
        self.found = found


def send_blob(bucket: Bucket, key: str, path: Path, digest: str) -> None:
    """The object is there whole or not at all; OSError when the file's bytes are not those of `digest`."""
    size = path.stat().st_size
    if size <= WHOLE_BYTES_MAX:
        content = path.read_bytes()
        _require(content_digest(content), digest, path)
        bucket.put(key, content)
        return
    part_bytes = _part_bytes(size)
    with _opened(path, os.O_RDONLY) as descriptor:
        upload = bucket.begin_upload(key)
        try:

            def send(number: int) -> tuple[SentPart, list[bytes]]:
                content = os.pread(descriptor, part_bytes, (number - 1) * part_bytes)
                sent = bucket.send_part(key, upload, number, content)
                at = range(0, len(content), HASH_PART_BYTES)
                return sent, [part_digest(content[i : i + HASH_PART_BYTES]) for i in at]

            sent = in_parallel(send, range(1, -(-size // part_bytes) + 1))
            _require(combine([d for _, digests in sent for d in digests]), digest, path)
            bucket.finish_upload(key, upload, [part for part, _ in sent])
        except BaseException:
            with suppress(BucketError):
                bucket.abandon_upload(key, upload)
            raise


def fetch_blob(
    bucket: Bucket, key: str, entry: FileEntry, target: Path, *, check: Callable[[], None]
) -> None:
    """Write the blob over `target`; WrongBytesError when it is not whole. `check` may raise to stop."""
    size = entry.size_bytes

    def fetch(index: int) -> bytes:
        check()
        start = index * HASH_PART_BYTES
        end = min(start + HASH_PART_BYTES, size)
        content = bytearray()
        with bucket.open(key, start, end) as body:
            while piece := body.read(READ_BYTES):
                check()
                content += piece
        if len(content) != end - start:
            raise BucketError("GetObject", key, f"{len(content)} bytes instead of {end - start}")
        _write_all(descriptor, memoryview(content), start)
        return part_digest(bytes(content))

    with _opened(target, os.O_WRONLY | os.O_CREAT) as descriptor:
        digests = in_parallel(fetch, range(-(-size // HASH_PART_BYTES)))
        os.ftruncate(descriptor, size)
    if (found := combine(digests)) != entry.digest:
        raise WrongBytesError(entry.digest, found)


def in_parallel(call: Callable[[int], Result], numbers: Sequence[int]) -> list[Result]:
    """In order, PARTS_PARALLEL at a time, so that no more than those are in memory; the first failure ends it."""
    results: dict[int, Result] = {}
    with ThreadPoolExecutor(PARTS_PARALLEL, thread_name_prefix="bucket") as pool:
        waiting = iter(numbers)
        running = {pool.submit(call, number): number for number in islice(waiting, PARTS_PARALLEL)}
        while running:
            ended = next(as_completed(running))
            results[running.pop(ended)] = ended.result()
            for number in islice(waiting, 1):
                running[pool.submit(call, number)] = number
    return [results[number] for number in numbers]


def allocate(path: Path, size: int) -> None:
    """Take the space now; OSError ENOSPC where there is none."""
    with _opened(path, os.O_WRONLY | os.O_CREAT) as descriptor:
        if size:
            os.posix_fallocate(descriptor, 0, size)


def _part_bytes(size: int) -> int:
    """A multiple of HASH_PART_BYTES, so that hashes are of whole parts."""
    return next(
        part for factor in count(1) if -(-size // (part := factor * PART_BYTES_MIN)) <= PARTS_MAX
    )


def _require(found: str, digest: str, path: Path) -> None:
    if found != digest:
        raise OSError(errno.EIO, f"{path.name} reads as {found}, it was written as {digest}")


def _write_all(descriptor: int, content: memoryview, at: int) -> None:
    while content:
        written = os.pwrite(descriptor, content, at)
        content, at = content[written:], at + written


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
