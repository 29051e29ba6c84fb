"""What a fetched file must be: it has the header that the verdict was given on, and the checksums that S3 states."""

import base64
import binascii
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import awscrt.checksums

from weighbridge.errors import InvalidError
from weighbridge.ingest.model import PinnedFile
from weighbridge.ingest.s3.faults import SourceError
from weighbridge.weights.disk.verification import Readable
from weighbridge.weights.safetensors import LENGTH_BYTES, header_length, parse_header
from weighbridge.weights.tensors import TensorSpec

READ_BYTES = 1024 * 1024
_ALGORITHMS: Mapping[str, tuple[str, int]] = {
    "crc64nvme": ("ChecksumCRC64NVME", 8),
    "crc32c": ("ChecksumCRC32C", 4),
    "crc32": ("ChecksumCRC32", 4),
    "sha256": ("ChecksumSHA256", 32),
    "sha1": ("ChecksumSHA1", 20),
}
"""Strongest of those that combine from parts first: the answer's member, and the bytes of a checksum."""


def stated_checksums(
    answer: Mapping[str, object], first_part_bytes: Callable[[], int]
) -> str | None:
    """What the answer to a HEAD states, as `PinnedFile.checksum` has it; asks for the parts' size only if needed."""
    found, part_bytes = [], 0
    for algorithm, (member, length) in _ALGORITHMS.items():
        value, dash, parts = str(answer.get(member, "")).partition("-")
        if not _is_checksum(value, length):  # some services answer with the wrong length
            continue
        if not dash and answer.get("ChecksumType") != "COMPOSITE":
            found.append(f"{algorithm}:{value}")
        elif parts.isdecimal():
            part_bytes = part_bytes or first_part_bytes()
            size_bytes = int(str(answer.get("ContentLength", 0)))
            # Parts of different sizes cannot be told apart: then nothing can be said.
            if part_bytes and -(-size_bytes // part_bytes) == int(parts):
                found.append(f"{algorithm}@{part_bytes}:{value}-{parts}")
    return " ".join(found) or None


def check_staged(file: PinnedFile, specs: Sequence[TensorSpec], path: Path) -> None:
    """SourceError CHECKSUM. The checksums that combine were computed on the way; for the others the file is read."""
    with path.open("rb") as content:
        check_header(file, specs, content)
        for stated in (file.checksum or "").split(" "):
            name, _, value = stated.partition(":")
            algorithm, _, part_bytes = name.partition("@")
            if part_bytes or algorithm.startswith("sha"):
                content.seek(0)
                if (
                    _checksum_of(content, algorithm, int(part_bytes or 0))
                    != value.partition("-")[0]
                ):
                    raise SourceError(
                        f"{file.key} does not have the checksum that S3 states for it ({stated}). "
                        "Upload the file to the bucket again.",
                        code="CHECKSUM",
                    )


def _checksum_of(content: BinaryIO, algorithm: str, part_bytes: int) -> str:
    """Base64 of the whole's checksum, or with `part_bytes` of the checksum of its parts' checksums."""
    if part_bytes == 0:
        total = _Checksum(algorithm)
        for piece in _pieces(content, None):
            total.add(piece)
        return base64.b64encode(total.value()).decode()
    whole = _Checksum(algorithm)
    while True:
        part, seen = _Checksum(algorithm), 0
        for piece in _pieces(content, part_bytes):
            part.add(piece)
            seen += len(piece)
        if seen == 0:
            return base64.b64encode(whole.value()).decode()
        whole.add(part.value())


class _Checksum:
    def __init__(self, algorithm: str) -> None:
        self._hash = hashlib.new(algorithm) if algorithm.startswith("sha") else None
        self._step = None if self._hash else getattr(awscrt.checksums, algorithm)
        self._bytes = _ALGORITHMS[algorithm][1]
        self._sum = 0

    def add(self, content: bytes) -> None:
        if self._hash is not None:
            self._hash.update(content)
        elif self._step is not None:
            self._sum = self._step(content, self._sum)

    def value(self) -> bytes:
        if self._hash is not None:
            return self._hash.digest()
        return self._sum.to_bytes(self._bytes, "big")


def _pieces(content: BinaryIO, most_bytes: int | None) -> Iterator[bytes]:
    left = most_bytes
    while piece := content.read(READ_BYTES if left is None else min(READ_BYTES, left)):
        if left is not None:
            left -= len(piece)
        yield piece


def _is_checksum(value: str, length: int) -> bool:
    try:
        return len(base64.b64decode(value, validate=True)) == length
    except binascii.Error:
        return False


def check_header(file: PinnedFile, specs: Sequence[TensorSpec], content: Readable) -> None:
    """The bytes that were stored start with the header the verdict was given on."""
    first = content.read(LENGTH_BYTES) or b""
    try:
        head = first + (content.read(header_length(first)) or b"")
        same = parse_header(head, file.size_bytes) == specs
    except InvalidError:
        same = False
    if not same:
        raise SourceError(
            f"{file.key} arrived with another header than S3 had shown before. Upload it to the bucket again.",
            code="CHECKSUM",
        )
