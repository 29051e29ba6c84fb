"""Tensors by name, type and shape, and how an upload's table of them differs from the wished one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

DTYPE_BITS = {
    "F64": 64, "I64": 64, "U64": 64,
    "F32": 32, "I32": 32, "U32": 32,
    "F16": 16, "BF16": 16, "I16": 16, "U16": 16,
    "F8_E4M3": 8, "F8_E5M2": 8, "I8": 8, "U8": 8, "BOOL": 8,
}  # fmt: skip
"""Bits per element of the safetensors types we know."""

DIFFERENCES_SHOWN = 20


@dataclass(frozen=True, slots=True, order=True)
class TensorSpec:
    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A tensor that both sides have, and not alike."""

    found: TensorSpec
    wished: TensorSpec


@dataclass(frozen=True, slots=True)
class TableDifference:
    """What keeps an upload from being weights of its architecture (W10); falsy when nothing does."""

    missing: Sequence[str]
    extra: Sequence[str]
    wrong_dtype: Sequence[Mismatch]
    wrong_shape: Sequence[Mismatch]
    repeated: Sequence[str]

    def __bool__(self) -> bool:
        return any(
            (self.missing, self.extra, self.wrong_dtype, self.wrong_shape, self.repeated),
        )

    def __len__(self) -> int:
        groups = (self.missing, self.extra, self.wrong_dtype, self.wrong_shape, self.repeated)
        return sum(len(group) for group in groups)

    def described(self) -> Sequence[str]:
        """A phrase for each group with its count; DIFFERENCES_SHOWN tensors named in all, fairly over the groups."""
        groups: dict[str, Sequence[str]] = {
            "missing": self.missing,
            "unexpected": self.extra,
            "of the wrong dtype": [
                f"{one.found.name} ({one.found.dtype}, not {one.wished.dtype})"
                for one in self.wrong_dtype
            ],
            "of the wrong shape": [
                f"{one.found.name} ({list(one.found.shape)}, not {list(one.wished.shape)})"
                for one in self.wrong_shape
            ],
            "in more than one file": self.repeated,
        }
        present = {label: names for label, names in groups.items() if names}
        left, lines = DIFFERENCES_SHOWN, []
        # Groups that need less than their share leave the rest to the others.
        for position, label in enumerate(sorted(present, key=lambda label: len(present[label]))):
            count = min(len(present[label]), left // (len(present) - position))
            left -= count
            more = ", …" if count < len(present[label]) else ""
            shown = ", ".join(present[label][:count])
            lines.append((label, f"{len(present[label])} {label}: {shown}{more}"))
        order = list(present)
        return [line for label, line in sorted(lines, key=lambda pair: order.index(pair[0]))]

    def describe(self) -> str:
        return "; ".join(self.described())


def compare_tables(
    expected: Sequence[TensorSpec], files: Mapping[str, Sequence[TensorSpec]]
) -> TableDifference:
    """Hold the tensors of an upload's files (by file name) against an architecture's table; strict, dtype included."""
    wished = {spec.name: spec for spec in expected}
    found: dict[str, TensorSpec] = {}
    repeated: list[str] = []
    for specs in files.values():
        for spec in specs:
            if spec.name in found:
                repeated.append(spec.name)
            found[spec.name] = spec
    both = [Mismatch(found[name], wished[name]) for name in sorted(wished.keys() & found.keys())]
    return TableDifference(
        missing=sorted(wished.keys() - found.keys()),
        extra=sorted(found.keys() - wished.keys()),
        wrong_dtype=[one for one in both if one.found.dtype != one.wished.dtype],
        wrong_shape=[one for one in both if one.found.shape != one.wished.shape],
        repeated=sorted(set(repeated)),
    )


def size_bytes(spec: TensorSpec) -> int:
    """What the tensor takes in a file; bit counts below a byte are rounded up."""
    return -(-DTYPE_BITS[spec.dtype] * prod(spec.shape) // 8)
