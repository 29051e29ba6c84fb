"""How the bytes of a version behave when an engine runs them; chosen once per upload, from the seed."""

from dataclasses import dataclass
from enum import StrEnum
from random import Random


class Character(StrEnum):
    GOOD = "good"
    SLOW = "slow"
    """Takes long to load, though not too long."""
    CRASHES_AT_START = "crashes_at_start"
    CRASHES_LATER = "crashes_later"
    NEVER_READY = "never_ready"
    HANGS = "hangs"
    """Accepts connections and never answers."""
    WRONG_DIGEST = "wrong_digest"
    NO_TOKEN = "no_token"  # noqa: S105 - a kind of failure
    FLAPS = "flaps"
    UNLUCKY = "unlucky"
    """Now and then one of its processes crashes, at the start or later."""


BAD = (
    Character.CRASHES_AT_START,
    Character.CRASHES_LATER,
    Character.NEVER_READY,
    Character.HANGS,
    Character.WRONG_DIGEST,
    Character.NO_TOKEN,
    Character.FLAPS,
)


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of one process; None: never."""

    load_s: float
    crash_s: float | None = None
    hangs: bool = False
    wrong_digest: bool = False
    no_token: bool = False
    flaps: bool = False


def draw_character(chance: Random) -> Character:
    roll = chance.random()
    if roll < 0.6:
        return Character.GOOD
    if roll < 0.66:
        return Character.SLOW
    if roll < 0.76:
        return Character.UNLUCKY
    return chance.choice(BAD)


def draw_fate(character: Character, chance: Random) -> Fate:  # noqa: PLR0911 - one for each
    load_s = chance.uniform(0.2, 2.0)
    match character:
        case Character.SLOW:
            return Fate(chance.uniform(4.0, 9.0))
        case Character.CRASHES_AT_START:
            return Fate(load_s, crash_s=chance.uniform(0.05, load_s))
        case Character.CRASHES_LATER:
            return Fate(load_s, crash_s=load_s + chance.uniform(0.5, 8.0))
        case Character.NEVER_READY:
            return Fate(1e9)
        case Character.HANGS:
            return Fate(load_s, hangs=True)
        case Character.WRONG_DIGEST:
            return Fate(load_s, wrong_digest=True)
        case Character.NO_TOKEN:
            return Fate(load_s, no_token=True)
        case Character.FLAPS:
            return Fate(load_s, flaps=True)
        case Character.UNLUCKY if chance.random() < 0.25:
            return Fate(load_s, crash_s=chance.uniform(0.1, 20.0))
        case _:
            return Fate(load_s)
