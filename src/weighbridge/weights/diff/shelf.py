"""Digests of each blob's tensors, as small files in `tensors/` of the weight store that can be made again."""

import os
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from blake3 import blake3

from weighbridge.weights.manifest import is_digest
from weighbridge.weights.safetensors import LENGTH_BYTES, header_length, parse_header
from weighbridge.weights.tensors import TensorSpec, size_bytes

READ_BYTES = 4 * 1024 * 1024


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
    """Blocking; several processes may use one root."""

    def __init__(self, root: Path) -> None:
        self._directory = root / "tensors"
        self._directory.mkdir(parents=True, exist_ok=True)

    def known(self) -> set[str]:
        """Digests of the blobs whose tensors are hashed."""
        return {path.stem for path in self._directory.glob("*.json") if is_digest(path.stem)}

    def of_blob(self, digest: str) -> Sequence[PlacedTensor] | None:
        """None when they are not hashed yet; a damaged file is removed, to be made again."""
        try:
            lines = msgspec.json.decode(self._path(digest).read_bytes(), type=list[_Line])
        except FileNotFoundError:
            return None
        except msgspec.MsgspecError:
            self._path(digest).unlink(missing_ok=True)
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
        temporary = self._directory / f"{digest}.{os.getpid()}.tmp"
        temporary.write_bytes(msgspec.json.encode(lines))
        temporary.replace(self._path(digest))

    def sweep(self, live: Collection[str]) -> None:
        """Remove what is kept of other blobs than these."""
        for digest in self.known() - set(live):
            self._path(digest).unlink(missing_ok=True)

    def _path(self, digest: str) -> Path:
        assert is_digest(digest), digest
        return self._directory / f"{digest}.json"


class _Line(msgspec.Struct, array_like=True):
    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int
    digest: str


def hash_tensors(path: Path, stop: threading.Event) -> Sequence[PlacedTensor]:
    """Read a safetensors file once, in order; StoppedError soon after `stop` is set."""
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        first = file.read(LENGTH_BYTES)
        head = first + _exactly(file.fileno(), LENGTH_BYTES, header_length(first))
        begin, found = len(head), []
        for spec in parse_header(head, size):
            end = begin + size_bytes(spec)
            hasher = blake3()
            for at in range(begin, end, READ_BYTES):
                if stop.is_set():
                    raise StoppedError
                hasher.update(_exactly(file.fileno(), at, min(READ_BYTES, end - at)))
            found.append(PlacedTensor(spec, begin, end, hasher.hexdigest()))
            begin = end
    return found


def _exactly(descriptor: int, at: int, count: int) -> bytes:
    chunks, left = [], count
    while left:
        chunk = os.pread(descriptor, left, at)
        if not chunk:
            raise OSError(f"file ends {left} bytes early")
        chunks.append(chunk)
        at, left = at + len(chunk), left - len(chunk)
    return b"".join(chunks)


TensorsByName = Mapping[str, tuple[Path, PlacedTensor]]
"""The tensors of a version, each with the file that holds it."""
