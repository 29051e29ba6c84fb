"""Digests of each blob's tensors, as notes in the weight store that can be made again."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
from blake3 import blake3

from weighbridge.weights.disk.notes import Notes
from weighbridge.weights.disk.verification import Readable
from weighbridge.weights.safetensors import LENGTH_BYTES, header_length, parse_header
from weighbridge.weights.tensors import TensorSpec, size_bytes

READ_BYTES = 4 * 1024 * 1024

Read = Callable[[str, int, int], bytes]
"""Of a blob's digest, and the first and the end of the bytes wanted."""


@dataclass(frozen=True, slots=True)
class PlacedTensor:
    """A tensor, the bytes [begin, end) of the file that hold it, and the BLAKE3 of those."""

    spec: TensorSpec
    begin: int
    end: int
    digest: str


class StoppedError(Exception):
    """The hashing was asked to stop."""


class TensorShelf:
    """Blocking; several processes may use the same notes."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes

    def known(self) -> set[str]:
        """Digests of the blobs whose tensors are hashed."""
        return self._notes.known()

    def of_blob(self, digest: str) -> Sequence[PlacedTensor] | None:
        """None when they are not hashed yet; a damaged note is removed, to be made again."""
        content = self._notes.read(digest)
        if content is None:
            return None
        try:
            lines = msgspec.json.decode(content, type=list[_Line])
        except msgspec.MsgspecError:
            self._notes.remove([digest])
            return None
        return [
            PlacedTensor(TensorSpec(one.name, one.dtype, one.shape), one.begin, one.end, one.digest)
            for one in lines
        ]

    def put(self, digest: str, tensors: Sequence[PlacedTensor]) -> None:
        lines = [
            _Line(one.spec.name, one.spec.dtype, one.spec.shape, one.begin, one.end, one.digest)
            for one in tensors
        ]
        self._notes.write(digest, msgspec.json.encode(lines))

    def remove(self, digests: set[str]) -> None:
        """What is kept of these blobs."""
        if digests:
            self._notes.remove(digests)


class _Line(msgspec.Struct, array_like=True):
    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int
    digest: str


def hash_tensors(content: Readable, size: int, stop: threading.Event) -> Sequence[PlacedTensor]:
    """Read a safetensors file of `size` bytes once, in order; StoppedError soon after `stop` is set."""
    first = _exactly(content, LENGTH_BYTES)
    head = first + _exactly(content, header_length(first))
    begin, found = len(head), []
    for spec in parse_header(head, size):
        end = begin + size_bytes(spec)
        hasher = blake3()
        for at in range(begin, end, READ_BYTES):
            if stop.is_set():
                raise StoppedError
            hasher.update(_exactly(content, min(READ_BYTES, end - at)))
        found.append(PlacedTensor(spec, begin, end, hasher.hexdigest()))
        begin = end
    return found


def _exactly(content: Readable, count: int) -> bytes:
    chunks, left = [], count
    while left:
        chunk = content.read(left)
        if not chunk:
            raise OSError(f"file ends {left} bytes early")
        chunks.append(chunk)
        left -= len(chunk)
    return b"".join(chunks)


TensorsByName = Mapping[str, tuple[str, PlacedTensor]]
"""The tensors of a version, each with the digest of the blob that holds it."""
