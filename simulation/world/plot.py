"""What will happen to a world, drawn before it begins."""

from dataclasses import dataclass
from random import Random

from simulation.engines.versions import Character
from simulation.world.faults import KINDS
from simulation.world.people import Wish


@dataclass(frozen=True, slots=True)
class Plot:
    shape: tuple[int, int, int]
    nodes: tuple[int, ...]
    workers: int
    versions: tuple[Character | None, ...]
    active_s: float
    wishes: tuple[float, ...]
    faults: tuple[tuple[float, str], ...]
    calls_per_s: float
    script: tuple[tuple[float, Wish], ...] = ()
    """Wishes that are known beforehand; somebody insists on each until a control plane takes it."""


def draw_plot(chance: Random, kinds: tuple[str, ...] = KINDS) -> Plot:
    replicas = chance.choice((1, 1, 2, 2, 2, 3, 3, 4))
    unavailable = chance.randint(0, replicas - 1) if chance.random() < 0.4 else 0
    surge = chance.randint(0 if unavailable else 1, 2)
    active_s = chance.uniform(15.0, 60.0)
    quiet = chance.random() < 0.15
    favourites = chance.sample(kinds, min(len(kinds), 4))
    faults = sorted(
        (chance.uniform(1.0, active_s), chance.choice(favourites))
        for _ in range(0 if quiet else chance.randint(1, 7))
    )
    nodes = tuple(chance.choice((replicas + surge, 3, 4, 6)) for _ in range(chance.randint(1, 3)))
    return Plot(
        shape=(replicas, unavailable, surge),
        nodes=nodes,
        workers=chance.randint(1, 3),
        versions=(Character.GOOD, *(None for _ in range(chance.randint(1, 3)))),
        active_s=active_s,
        wishes=tuple(sorted(chance.uniform(8.0, active_s) for _ in range(chance.randint(1, 4)))),
        faults=tuple(faults),
        calls_per_s=chance.choice((0.2, 0.5, 1.0)),
    )
