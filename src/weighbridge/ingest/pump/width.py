"""How many ranges to read at once, as a pure function of what the last ones brought."""

from dataclasses import dataclass, replace

FIRST = 8
GAIN = 1.05
"""A wider pump must bring this much more to stay wider."""
HOLD_STEPS = 8
"""Steps without a change after one that did not pay, or after the source asked for less."""


@dataclass(frozen=True, slots=True)
class Width:
    """`parts` ranges in flight; `tried_from` is the width before the last widening, with what it brought."""

    parts: int
    bytes_per_s: float = 0.0
    tried_from: int | None = None
    hold_steps: int = 0

    @staticmethod
    def first(parts_max: int) -> "Width":
        return Width(min(FIRST, parts_max))


def next_width(width: Width, *, bytes_per_s: float, slowdowns: int, parts_max: int) -> Width:
    """One step, about a second. Half as wide when the source throttles, doubled while that pays, else held.

    Worked example, 32 at most, one stream brings 50 MB/s and the disk takes 600: 8 bring 400, so 16 are
    tried; they bring 600, that pays, 32 are tried; they bring 600 too, that does not: back to 16 for 8
    steps, then 32 are tried again, for the world may have changed.
    """
    if slowdowns > 0:
        return Width(max(1, width.parts // 2), bytes_per_s, None, HOLD_STEPS)
    if width.tried_from is not None and bytes_per_s < width.bytes_per_s * GAIN:
        return Width(width.tried_from, bytes_per_s, None, HOLD_STEPS)
    if width.hold_steps > 0:
        return replace(
            width, bytes_per_s=bytes_per_s, tried_from=None, hold_steps=width.hold_steps - 1
        )
    wider = min(parts_max, width.parts * 2)
    tried_from = width.parts if wider > width.parts else None
    return Width(min(parts_max, wider), bytes_per_s, tried_from)
