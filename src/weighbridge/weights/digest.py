"""Content digests: BLAKE3 over the BLAKE3 digests of 16 MiB parts, so the parts of a file hash in parallel."""

from collections.abc import Sequence
from pathlib import Path

from blake3 import blake3

HASH_PART_BYTES = 16 * 1024 * 1024
_READ_BYTES = 1024 * 1024


def part_count(size_bytes: int) -> int:
    """An empty file has no part."""
    return -(-size_bytes // HASH_PART_BYTES)


def part_digest(content: bytes | memoryview) -> bytes:
    return blake3(content).digest()


def combine(part_digests: Sequence[bytes]) -> str:
    """The digest (64 hex digits) of the file whose parts, in order, have these digests."""
    return blake3(b"".join(part_digests)).hexdigest()


def content_digest(content: bytes) -> str:
    """The digest a file with this content has."""
    parts = range(0, len(content), HASH_PART_BYTES)
    return combine([part_digest(content[start : start + HASH_PART_BYTES]) for start in parts])


def file_digest(path: Path) -> str:
    """Read the whole file; blocking."""
    digests: list[bytes] = []
    with path.open("rb") as file:
        while True:
            hasher, left = blake3(), HASH_PART_BYTES
            while left and (chunk := file.read(min(left, _READ_BYTES))):
                hasher.update(chunk)
                left -= len(chunk)
            if left == HASH_PART_BYTES:
                return combine(digests)
            digests.append(hasher.digest())
            if left:
                return combine(digests)
