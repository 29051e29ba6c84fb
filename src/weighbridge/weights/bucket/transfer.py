"""A blob to the bucket, in parallel parts, hashed on the way: other bytes than its own do not arrive."""

import errno
import os
from contextlib import suppress
from itertools import count
from pathlib import Path

from weighbridge.weights.bucket.objects import Bucket, BucketError, SentPart
from weighbridge.weights.digest import HASH_PART_BYTES, combine, content_digest, part_digest
from weighbridge.weights.disk.space import opened_file
from weighbridge.weights.node.fetch import in_parallel

PART_BYTES_MIN = 2 * HASH_PART_BYTES
PARTS_MAX = 10_000
"""S3's own limit."""
WHOLE_BYTES_MAX = PART_BYTES_MIN
"""A blob up to this size is sent in one request."""


def send_blob(bucket: Bucket, key: str, path: Path, digest: str) -> None:
    """The object is there whole or not at all; OSError when the file's bytes are not those of `digest`."""
    size = path.stat().st_size
    if size <= WHOLE_BYTES_MAX:
        content = path.read_bytes()
        _require(content_digest(content), digest, path)
        bucket.put(key, content)
        return
    part_bytes = _part_bytes(size)
    with opened_file(path, os.O_RDONLY) as descriptor:
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


def _part_bytes(size: int) -> int:
    """A multiple of HASH_PART_BYTES, so that hashes are of whole parts."""
    return next(
        part for factor in count(1) if -(-size // (part := factor * PART_BYTES_MIN)) <= PARTS_MAX
    )


def _require(found: str, digest: str, path: Path) -> None:
    if found != digest:
        raise OSError(errno.EIO, f"{path.name} reads as {found}, it was written as {digest}")
