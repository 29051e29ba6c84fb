"""Read tensors of safetensors files through a memory map; what they mean is not known here.

The format: 8 bytes little-endian length, a JSON header of {name: {dtype, shape, data_offsets}}, the
data. The headers of a version are checked when it is uploaded; the checks here keep a damaged
directory from being read outside its files.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from weighbridge.engines.gguf.documents import parse_object, read_json
from weighbridge.errors import InvalidError

HEADER_BYTES_MAX = 100 * 1024 * 1024
"""The limit of the format's reference implementation."""
INDEX_BYTES_MAX = 64 * 1024 * 1024
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
ITEM_BYTES: Mapping[str, int] = {"F32": 4, "F16": 2, "BF16": 2}

Raw = NDArray[np.uint16] | NDArray[np.float16] | NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where one tensor lies; `begin` counts from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    begin: int

    @property
    def size_bytes(self) -> int:
        return prod(self.shape) * ITEM_BYTES[self.dtype]

    def raw(self) -> Raw:
        """A view of the file in the tensor's shape; bf16 comes as its 16-bit patterns."""
        view: NDArray[np.uint8] = np.memmap(
            self.path, dtype=np.uint8, mode="r", offset=self.begin, shape=(self.size_bytes,)
        )
        match self.dtype:
            case "F32":
                return view.view(np.float32).reshape(self.shape)
            case "F16":
                return view.view(np.float16).reshape(self.shape)
            case _:
                return view.view(np.uint16).reshape(self.shape)

    def float32(self) -> NDArray[np.float32]:
        """The values, exactly: both 16-bit formats fit into float32."""
        raw = self.raw()
        if self.dtype == "BF16":
            return (raw.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return raw.astype(np.float32)


def read_tensors(folder: Path) -> Mapping[str, StoredTensor]:
    """Every tensor of a single file or of the shards its index names, by name.

    Raises InvalidError for a missing, damaged or contradictory file.
    """
    if not (folder / INDEX_FILE).exists():
        return _read_file(folder / SINGLE_FILE)
    tensors: dict[str, StoredTensor] = {}
    shards = _shards(folder / INDEX_FILE)
    for shard in sorted(set(shards.values())):
        found = _read_file(folder / shard)
        if twice := tensors.keys() & found.keys():
            raise InvalidError(f"{shard}: tensor {min(twice)} is in another shard too")
        tensors.update(found)
    if missing := shards.keys() - tensors.keys():
        raise InvalidError(f"{INDEX_FILE}: no shard holds tensor {min(missing)}")
    return tensors


def _shards(index: Path) -> Mapping[str, str]:
    """Tensor name to file name, each a plain name inside the index's own directory."""
    shards = read_json(index, INDEX_BYTES_MAX).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise InvalidError(f"{index.name} has no weight_map")
    for shard in shards.values():
        if not isinstance(shard, str) or Path(shard).name != shard or shard in {"", ".", ".."}:
            raise InvalidError(f"{index.name} names {shard!r}, which is not a plain file name")
    return cast("Mapping[str, str]", shards)  # each value was checked above, each JSON key is a str


def _read_file(path: Path) -> Mapping[str, StoredTensor]:
    try:
        size_bytes = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size_bytes
            if length > min(HEADER_BYTES_MAX, size_bytes - 8):
                raise InvalidError(f"{path.name} is not a safetensors file: its header is cut off")
            header = parse_object(file.read(length), f"header of {path.name}")
    except OSError as error:
        raise InvalidError(f"{path.name} cannot be read: {error.strerror}") from error
    return {
        name: _tensor(path, name, entry, data_begin=8 + length, file_bytes=size_bytes)
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _tensor(
    path: Path, name: str, entry: object, *, data_begin: int, file_bytes: int
) -> StoredTensor:
    where = f"{path.name}: tensor {name}"
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(begin), int(end)]}:
            pass
        case _:
            raise InvalidError(f"{where} has no dtype, shape and data_offsets")
    if dtype not in ITEM_BYTES:
        raise InvalidError(f"{where} has type {dtype}; supported are {', '.join(ITEM_BYTES)}")
    sizes = tuple(size for size in shape if isinstance(size, int) and size > 0)
    if len(sizes) != len(shape):
        raise InvalidError(f"{where} has shape {shape}")
    tensor = StoredTensor(name, dtype, sizes, path, data_begin + begin)
    if begin < 0 or end - begin != tensor.size_bytes or data_begin + end > file_bytes:
        raise InvalidError(f"{where} does not lie within the file with the size of its shape")
    return tensor
