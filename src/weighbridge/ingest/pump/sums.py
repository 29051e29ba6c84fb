"""What is computed of a part while its bytes are in the cache: BLAKE3 for the store, and the checksum S3 states."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import awscrt.checksums
from blake3 import blake3

COMBINED = frozenset(["crc64nvme", "crc32c", "crc32"])


@dataclass(frozen=True, slots=True)
class Part:
    index: int
    digest: bytes
    checksum: int
    size_bytes: int


class Sums:
    """Sums of one part, piece by piece; `algorithm` is one that combines, or None."""

    def __init__(self, algorithm: str | None) -> None:
        self._hasher = blake3()
        self._step = None if algorithm is None else getattr(awscrt.checksums, algorithm)
        self._checksum = 0
        self._size = 0

    def add(self, piece: memoryview) -> None:
        self._hasher.update(piece)
        if self._step is not None:
            self._checksum = self._step(piece, self._checksum)
        self._size += len(piece)

    @property
    def size_bytes(self) -> int:
        return self._size

    def digest(self) -> bytes:
        """Of what was added so far."""
        return self._hasher.digest()

    def part(self, index: int) -> Part:
        return Part(index, self.digest(), self._checksum, self._size)


@dataclass(frozen=True, slots=True)
class Stated:
    """A checksum that S3 states of a whole object and that combines from its parts'."""

    algorithm: str
    value: int

    @staticmethod
    def parse(text: str | None) -> "Stated | None":
        """The first of them, which is the strongest; None where there is none."""
        for one in (text or "").split(" "):
            algorithm, _, value = one.partition(":")
            if algorithm in COMBINED:
                return Stated(algorithm, int.from_bytes(base64.b64decode(value), "big"))
        return None

    def is_of(self, parts: Sequence[Part]) -> bool:
        """Whether the parts, in order, are an object with this checksum."""
        join = getattr(awscrt.checksums, f"combine_{self.algorithm}")
        total = parts[0].checksum if parts else 0
        for part in parts[1:]:
            total = join(total, part.checksum, part.size_bytes)
        return bool(total == self.value)
