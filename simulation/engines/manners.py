"""How the bytes of a version answer requests and probes, once they serve; drawn once per upload."""

from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class Manner:
    """`errors` is the share of requests that end in 500, `empty` that of answers without a token."""

    errors: float = 0.0
    empty: float = 0.0
    first_token_s: float = 0.05
    fails_exam: bool = False

    @property
    def name(self) -> str:
        if self.fails_exam:
            return "fails its exam"
        if self.errors:
            return "errors"
        if self.empty:
            return "empty"
        return "slow" if self.first_token_s > ALIKE.first_token_s else "alike"


ALIKE = Manner()


def draw_manner(chance: Random) -> Manner:
    roll = chance.random()
    if roll < 0.5:
        return ALIKE
    if roll < 0.7:
        return Manner(errors=chance.uniform(0.5, 1.0))
    if roll < 0.85:
        return Manner(empty=chance.uniform(0.2, 1.0))
    return Manner(first_token_s=chance.uniform(1.2, 2.5))
