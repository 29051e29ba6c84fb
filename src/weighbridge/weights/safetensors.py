"""Our own strict check of a safetensors header, made before anything else reads the file; see reliability C5 st_*.

Stricter than the reference reader: no duplicate or unsafe names, no empty tensors, no bytes that belong to no
tensor, and limits that keep the check itself cheap.
"""

import re
from collections.abc import Sequence
from math import prod
from typing import NoReturn

from weighbridge.errors import InvalidError
from weighbridge.weights.strict_json import JsonLimits, parse_object, shown
from weighbridge.weights.tensors import DTYPE_BITS, TensorSpec

LENGTH_BYTES = 8
HEADER_BYTES_MAX = 16 * 1024 * 1024
TENSORS_MAX = 65_536
DIMENSIONS_MAX = 8
DIMENSION_MAX = 2**40
NAME_BYTES_MAX = 512
METADATA_BYTES_MAX = 1024 * 1024

_NAME = re.compile(r"[A-Za-z0-9_.\-]+")
# A tensor has some twenty structural characters (three members, two offsets, up to eight dimensions).
_LIMITS = JsonLimits(bytes_max=HEADER_BYTES_MAX, nodes_max=24 * TENSORS_MAX)


def header_length(first8: bytes) -> int:
    """The header's length in bytes as the file's first eight bytes state it; ST_TOO_SHORT, ST_HEADER_TOO_LONG."""
    if len(first8) < LENGTH_BYTES:
        _refuse("ST_TOO_SHORT", f"is only {len(first8)} bytes long")
    length = int.from_bytes(first8[:LENGTH_BYTES], "little")
    if length > HEADER_BYTES_MAX:
        _refuse(
            "ST_HEADER_TOO_LONG",
            f"states a header of {length} bytes; {HEADER_BYTES_MAX} is the most",
        )
    if length < len(b"{}"):
        _refuse("ST_TOO_SHORT", f"states a header of {length} bytes")
    return length


def parse_header(head: bytes, file_size: int) -> Sequence[TensorSpec]:
    """The tensors of a file of `file_size` bytes, in the order they lie in it.

    `head` is the file's beginning: the eight length bytes and at least the whole header. InvalidError
    with a code ST_… otherwise.
    """
    length = header_length(head[:LENGTH_BYTES])
    if LENGTH_BYTES + length > file_size:
        _refuse("ST_TOO_SHORT", f"states a header of {length} bytes but has {file_size} in all")
    text = head[LENGTH_BYTES : LENGTH_BYTES + length]
    if len(text) < length:
        _refuse("ST_TOO_SHORT", "ends inside its header")
    if not text.startswith(b"{"):
        _refuse("ST_NOT_JSON", "has a header that does not start with '{'")
    members = parse_object(
        text.rstrip(b" "),
        what="The safetensors header",
        code="ST_NOT_JSON",
        limits=_LIMITS,
        allow_floats=False,
    )
    _check_metadata(members.pop("__metadata__", {}))
    if not members:
        _refuse("ST_NO_TENSORS", "holds no tensor")
    if len(members) > TENSORS_MAX:
        _refuse("ST_TOO_MANY_TENSORS", f"holds {len(members)} tensors; {TENSORS_MAX} is the most")
    placed = sorted(_tensor(name, entry) for name, entry in members.items())
    _check_cover(placed, file_size - LENGTH_BYTES - length)
    return tuple(spec for _, _, spec in placed)


def _check_metadata(metadata: object) -> None:
    if not isinstance(metadata, dict):
        _refuse("ST_BAD_METADATA", "has metadata that is not an object")
    size = 0
    for name, value in metadata.items():
        if not isinstance(value, str):
            _refuse("ST_BAD_METADATA", f"has metadata {shown(name)} that is not a string")
        try:
            size += len(name.encode()) + len(value.encode())
        except UnicodeEncodeError:
            _refuse("ST_BAD_METADATA", "has metadata that is not valid text")
    if size > METADATA_BYTES_MAX:
        _refuse(
            "ST_BAD_METADATA", f"has {size} bytes of metadata; {METADATA_BYTES_MAX} is the most"
        )


def _tensor(name: str, entry: object) -> tuple[int, int, TensorSpec]:
    """(begin, end, spec), checked as far as one tensor alone can be."""
    if len(name) > NAME_BYTES_MAX or not _NAME.fullmatch(name) or ".." in name:
        _refuse("ST_BAD_NAME", f"has a tensor with the name {shown(name)}")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        _refuse(
            "ST_BAD_TENSOR", f"describes {name} by other members than dtype, shape, data_offsets"
        )
    dtype = entry["dtype"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        _refuse("ST_BAD_DTYPE", f"gives {name} the unknown dtype {shown(str(dtype))}")
    shape = _integers(entry["shape"])
    if (
        shape is None
        or len(shape) > DIMENSIONS_MAX
        or not all(0 < n <= DIMENSION_MAX for n in shape)
    ):
        _refuse("ST_BAD_SHAPE", f"gives {name} a shape that is not 0 to 8 positive integers")
    offsets = _integers(entry["data_offsets"])
    if offsets is None or len(offsets) != 2 or not 0 <= offsets[0] <= offsets[1]:
        _refuse("ST_BAD_OFFSETS", f"gives {name} offsets that are not two rising integers")
    if (offsets[1] - offsets[0]) * 8 != prod(shape) * DTYPE_BITS[dtype]:
        _refuse(
            "ST_BAD_OFFSETS", f"gives {name} another number of bytes than its shape and dtype need"
        )
    return offsets[0], offsets[1], TensorSpec(name, dtype, shape)


def _integers(value: object) -> tuple[int, ...] | None:
    # bool is an int to Python and not to the format.
    if isinstance(value, list) and all(type(item) is int for item in value):
        return tuple(value)
    return None


def _check_cover(placed: Sequence[tuple[int, int, TensorSpec]], data_bytes: int) -> None:
    """The tensors cover the data exactly once, with no hole where something else could hide."""
    at = 0
    for begin, end, spec in placed:
        if begin != at:
            _refuse(
                "ST_BAD_OFFSETS",
                f"has {'an overlap' if begin < at else 'a gap'} before {spec.name}",
            )
        at = end
    if at != data_bytes:
        _refuse("ST_WRONG_SIZE", f"describes {at} bytes of tensors but holds {data_bytes}")


def _refuse(code: str, reason: str) -> NoReturn:
    raise InvalidError(f"The safetensors file {reason}.", code=code)
