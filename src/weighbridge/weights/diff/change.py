"""How much a tensor changed: the length of the difference against the length of the tensor, read in pieces."""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from weighbridge.weights.diff.shelf import PlacedTensor, Read
from weighbridge.weights.tensors import DTYPE_BITS

PIECE_BYTES = 8 * 1024 * 1024

_PLAIN = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "U64": "<u8", "I32": "<i4", "U32": "<u4",
    "I16": "<i2", "U16": "<u2", "I8": "i1", "U8": "u1", "BOOL": "u1",
}  # fmt: skip

Floats = npt.NDArray[np.float64]


def relative_change(
    read: Read,
    before_blob: str,
    before: PlacedTensor,
    after_blob: str,
    after: PlacedTensor,
    *,
    check: Callable[[], None],
) -> float | None:
    """|after − before| / |before| in the Euclidean norm; None where a value is not finite.

    Infinite where nothing became something. The two have the same dtype and shape. `check` is called before
    each piece and may raise to stop.
    """
    moved = length = 0.0
    dtype = before.spec.dtype
    for at in range(0, before.end - before.begin, PIECE_BYTES):
        check()
        count = min(PIECE_BYTES, before.end - before.begin - at)
        left, right = before.begin + at, after.begin + at
        old = decoded(dtype, read(before_blob, left, left + count))
        new = decoded(dtype, read(after_blob, right, right + count))
        with np.errstate(invalid="ignore", over="ignore"):
            moved += float(np.square(new - old).sum())
            length += float(np.square(old).sum())
    if not (math.isfinite(moved) and math.isfinite(length)):
        return None
    if length == 0.0:
        return math.inf if moved else 0.0
    return math.sqrt(moved / length)


def decoded(dtype: str, content: bytes) -> Floats:
    """The numbers behind a tensor's bytes."""
    if dtype in _PLAIN:
        return np.frombuffer(content, _PLAIN[dtype]).astype(np.float64)
    if dtype == "BF16":
        wide = np.frombuffer(content, "<u2").astype(np.uint32) << 16
        return wide.view(np.float32).astype(np.float64)
    assert DTYPE_BITS[dtype] == 8, dtype
    return _EIGHT_BITS[dtype][np.frombuffer(content, np.uint8)]


def _eight_bits(exponent_bits: int, mantissa_bits: int, *, has_infinity: bool) -> Floats:
    """Every value of an 8-bit float: E5M2 as IEEE has it, E4M3 without infinities (OCP OFP8, section 5)."""
    bias = 2 ** (exponent_bits - 1) - 1
    values = []
    for code in range(256):
        exponent = (code >> mantissa_bits) & (2**exponent_bits - 1)
        mantissa = code & (2**mantissa_bits - 1)
        if exponent == 0:
            value = mantissa / 2**mantissa_bits * 2.0 ** (1 - bias)
        else:
            value = (1 + mantissa / 2**mantissa_bits) * 2.0 ** (exponent - bias)
        if exponent == 2**exponent_bits - 1:
            if has_infinity:
                value = math.nan if mantissa else math.inf
            elif mantissa == 2**mantissa_bits - 1:
                value = math.nan
        values.append(-value if code >= 128 else value)
    return np.array(values)


_EIGHT_BITS = {
    "F8_E4M3": _eight_bits(4, 3, has_infinity=False),
    "F8_E5M2": _eight_bits(5, 2, has_infinity=True),
}
