"""Tensors by name, type and shape, and how an upload's table of them differs from the wished one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
class TableDifference:
    """What keeps an upload from being weights of its architecture (W10); falsy when nothing does."""

    missing: Sequence[str]
    extra: Sequence[str]
    wrong_dtype: Sequence[str]
    wrong_shape: Sequence[str]
    repeated: Sequence[str]

    def __bool__(self) -> bool:
        return any(
            (self.missing, self.extra, self.wrong_dtype, self.wrong_shape, self.repeated),
        )

    def describe(self) -> str:
        """Each group with its count; DIFFERENCES_SHOWN tensors named in all, fairly over the groups."""
        groups = {
            "missing": self.missing,
            "unexpected": self.extra,
            "of the wrong dtype": self.wrong_dtype,
            "of the wrong shape": self.wrong_shape,
            "in more than one file": self.repeated,
        }
        present = {label: names for label, names in groups.items() if names}
        left, lines = DIFFERENCES_SHOWN, []
        for position, (label, names) in enumerate(present.items()):
            count = min(len(names), -(-left // (len(present) - position)))
            left -= count
            more = ", …" if count < len(names) else ""
            lines.append(f"{len(names)} {label}: {', '.join(names[:count])}{more}")
        return "; ".join(lines)


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
    both = sorted(wished.keys() & found.keys())
    return TableDifference(
        missing=sorted(wished.keys() - found.keys()),
        extra=sorted(found.keys() - wished.keys()),
        wrong_dtype=[
            f"{name} ({found[name].dtype}, not {wished[name].dtype})"
            for name in both
            if found[name].dtype != wished[name].dtype
        ],
        wrong_shape=[
            f"{name} ({list(found[name].shape)}, not {list(wished[name].shape)})"
            for name in both
            if found[name].shape != wished[name].shape
        ],
        repeated=sorted(set(repeated)),
    )
