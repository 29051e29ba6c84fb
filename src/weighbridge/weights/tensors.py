"""A tensor's name, type and shape, as a safetensors header states them."""

from dataclasses import dataclass

DTYPE_BITS = {
    "F64": 64, "I64": 64, "U64": 64,
    "F32": 32, "I32": 32, "U32": 32,
    "F16": 16, "BF16": 16, "I16": 16, "U16": 16,
    "F8_E4M3": 8, "F8_E5M2": 8, "I8": 8, "U8": 8, "BOOL": 8,
}  # fmt: skip
"""Bits per element of the safetensors types we know."""


@dataclass(frozen=True, slots=True, order=True)
class TensorSpec:
    name: str
    dtype: str
    shape: tuple[int, ...]
