"""What a world has besides its plot (canaries, the gate): drawn from a stream of its own, so that others stay as they are."""

from dataclasses import dataclass, replace
from random import Random

from simulation.world.manners import ALIKE, Manner, draw_manner
from simulation.world.people import Wish
from simulation.world.plot import Plot

CANARIES_SHARE = 0.35
"""Of all worlds."""
PERCENTS = (5, 10, 25, 50, 50, 75, 99)
SETTLE_S = 5.0
CALLS_PER_S = 4.0
"""While a share of the requests goes to a canary: enough to tell the share from another."""
GATED_SHARE = 0.15
GATED_CALLS_PER_S = 8.0
"""While a rollout is on and the gate looks at its answers: enough for a verdict before it is done."""


@dataclass(frozen=True, slots=True)
class Acts:
    """`wishes` are insisted on, as those of a script. `promotes`: what is left standing is promoted in the end, else
    it is cancelled. `gated`: requests are counted, the gate is on, and versions differ in how they answer.
    """

    wishes: tuple[tuple[float, Wish], ...] = ()
    promotes: bool = True
    gated: bool = False

    @property
    def any(self) -> bool:
        return bool(self.wishes) or self.gated

    def manner(self, chance: Random) -> Manner:
        return draw_manner(chance) if self.gated else ALIKE


def draw_acts(chance: Random, plot: Plot) -> tuple[Acts, Plot]:
    """What is to happen besides the plot, and the plot with time for it."""
    gated = chance.random() < GATED_SHARE
    if chance.random() >= CANARIES_SHARE:
        return Acts(gated=gated), plot
    wishes: list[tuple[float, Wish]] = []
    at_s = chance.uniform(8.0, 14.0)
    for _ in range(chance.choice((1, 1, 2))):
        version = chance.randint(2, len(plot.versions))
        wishes.append((at_s, Wish("canary", (version, chance.choice(PERCENTS)))))
        at_s += chance.uniform(6.0, 25.0)
        wishes += [(at_s + after_s, Wish(kind)) for after_s, kind in _end(chance)]
        at_s += chance.uniform(4.0, 15.0)
    active_s = max(plot.active_s, max(at_s for at_s, _ in wishes) + SETTLE_S)
    return Acts(tuple(wishes), chance.random() < 0.7, gated), replace(plot, active_s=active_s)


def _end(chance: Random) -> list[tuple[float, str]]:
    """What becomes of a canary: seconds and wishes; nothing where it is left standing."""
    roll = chance.random()
    if roll < 0.4:
        return [(0.0, "promote")]
    if roll < 0.6:
        return [(0.0, "cancel canary")]
    if roll < 0.75:
        first, second = chance.sample(("promote", "cancel canary"), 2)
        return [(0.0, first), (chance.uniform(0.0, 0.3), second)]
    if roll < 0.85:
        return [(0.0, "promote"), (chance.uniform(0.0, 4.0), "promote")]
    return []
