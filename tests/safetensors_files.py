"""Small safetensors files for tests, written by hand so that they can also be wrong."""

import json
from collections.abc import Mapping, Sequence

from weighbridge.weights.tensors import DTYPE_BITS, TensorSpec


def size_bytes(spec: TensorSpec) -> int:
    count = DTYPE_BITS[spec.dtype]
    for dimension in spec.shape:
        count *= dimension
    return count // 8


def header_of(specs: Sequence[TensorSpec]) -> dict[str, object]:
    members: dict[str, object] = {}
    at = 0
    for spec in specs:
        end = at + size_bytes(spec)
        members[spec.name] = {
            "dtype": spec.dtype,
            "shape": list(spec.shape),
            "data_offsets": [at, end],
        }
        at = end
    return members


def encode(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def safetensors_file(specs: Sequence[TensorSpec], *, fill: int = 1) -> bytes:
    """The data differs from tensor to tensor and with `fill`."""
    data = b"".join(
        _pattern(size_bytes(spec), fill * 31 + position) for position, spec in enumerate(specs)
    )
    return encode(header_of(specs), data)


def _pattern(count: int, seed: int) -> bytes:
    unit = bytes((seed + at * at + at // 7) % 251 for at in range(509))
    return (unit * (count // len(unit) + 1))[:count]


def index_of(files: Mapping[str, Sequence[TensorSpec]]) -> bytes:
    weight_map = {spec.name: name for name, specs in files.items() for spec in specs}
    return json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map}).encode()
