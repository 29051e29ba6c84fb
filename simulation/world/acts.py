"""What a world has besides its plot: canaries, the gate, acceptance probes, the hold, gateways on several hosts.

Drawn from streams of their own, so that worlds without stay as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from simulation.engines.manners import ALIKE, Manner, draw_manner
from simulation.engines.versions import Character
from simulation.gateways.holds import Caller, HoldPlan
from simulation.world.faults import HOST_KINDS, PULL_KINDS
from simulation.world.people import Wish
from simulation.world.plot import Plot

Faults = tuple[tuple[float, str], ...]
"""When what comes."""
CANARIES_SHARE = 0.35
"""Of all worlds."""
PERCENTS = (5, 10, 25, 50, 50, 75, 99)
SETTLE_S = 5.0
CALLS_PER_S = 4.0
"""While a share of the requests goes to a canary: enough to tell the share from another."""
GATED_SHARE = 0.15
GATED_CALLS_PER_S = 8.0
"""While a rollout is on and the gate looks at its answers: enough for a verdict before it is done."""
HOLDING_SHARE = 0.2
HELD_CALLS_PER_S = 5.0
"""While no replica is ready."""
SINGLE_SHARE = 0.6
"""Of the worlds where requests are held: a single replica without a spare slot."""
EXAMINED_SHARE = 0.15
FAILS_EXAM_SHARE = 0.4
GOOD_SHARE = 0.6
"""Of the versions in such worlds: what crashes tells little of all this."""
HOSTS_SHARE = 0.35
"""Of the worlds where no requests are held."""
APART_SHARE = 0.3
"""Of those with hosts: the control planes' machine has no gateway."""
HOSTS_CALLS_PER_S = 2.0
"""Where there are several hosts, beside the plot's."""
HOSTS_ACTIVE_MIN_S = 40.0
PULLS_SHARE = 0.2
FIRST_WISH_S = 8.0
"""Until then the first version comes up."""


@dataclass(frozen=True, slots=True)
class Acts:
    """`wishes` are insisted on, as those of a script. `promotes`: what is left standing is promoted in the end, else
    it is cancelled. `gated`: requests are counted, the gate is on, and versions differ in how they answer.
    `examined`: new replicas have acceptance probes, and some versions fail them. `holding`: requests
    wait for a replica that comes back. `hosts`: how many workers
    each further machine with a gateway has. `pulls`: nodes pull what they run. `faults` come beside the plot's.
    """

    wishes: tuple[tuple[float, Wish], ...] = ()
    promotes: bool = True
    gated: bool = False
    examined: bool = False
    holding: HoldPlan | None = None
    hosts: tuple[int, ...] = ()
    pulls: bool = False
    faults: Faults = ()

    @property
    def any(self) -> bool:
        return bool(self.wishes) or self.gated or self.holding is not None

    def burst(self, chance: Random) -> int:
        """How many requests come at once."""
        return 1 if self.holding is None else chance.choice((1, 1, 1, 1, 12))

    def caller(self, chance: Random) -> Caller:
        if self.holding is None:
            return Caller()
        patience_s = chance.uniform(0.1, 5.0) if chance.random() < 0.1 else None
        return Caller(
            f"key_{chance.choice((1, 1, 1, 2, 3))}", chance.randint(50, 1_500), patience_s
        )

    def manner(self, chance: Random) -> Manner:
        manner = draw_manner(chance) if self.gated else ALIKE
        if self.examined:
            manner = replace(manner, fails_exam=chance.random() < FAILS_EXAM_SHARE)
        return manner


def draw_acts(chance: Random, plot: Plot) -> tuple[Acts, Plot]:
    """What is to happen besides the plot, and the plot with time for it."""
    gated, examined = chance.random() < GATED_SHARE, chance.random() < EXAMINED_SHARE
    wishes: list[tuple[float, Wish]] = []
    if examined:
        wishes.append((chance.uniform(0.0, plot.active_s), Wish("probes", chance.randint(0, 2))))
    holding = None
    if chance.random() < HOLDING_SHARE:
        holding = HoldPlan(chance.choice((3.0, 8.0, 20.0)), chance.randint(2, 12), 6_000)
        if chance.random() < SINGLE_SHARE:
            plot = replace(plot, shape=(1, 1, 0))
    acts = Acts(gated=gated, examined=examined, holding=holding)
    canaries = chance.random() < CANARIES_SHARE
    if canaries or gated or examined:
        plot = replace(plot, versions=tuple(_or_good(one, chance) for one in plot.versions))
    if not canaries:
        return replace(acts, wishes=tuple(wishes)), plot
    at_s = chance.uniform(10.0, 16.0)
    for _ in range(chance.choice((1, 1, 2))):
        version = chance.randint(2, len(plot.versions))
        wishes.append((at_s, Wish("canary", (version, chance.choice(PERCENTS)))))
        at_s += chance.uniform(6.0, 25.0)
        wishes += [(at_s + after_s, Wish(kind)) for after_s, kind in _end(chance)]
        at_s += chance.uniform(4.0, 15.0)
    active_s = max(plot.active_s, max(at_s for at_s, _ in wishes) + SETTLE_S)
    acts = replace(acts, wishes=tuple(wishes), promotes=chance.random() < 0.7)
    return acts, replace(plot, active_s=active_s)


def draw_hosts(chance: Random, acts: Acts, plot: Plot) -> tuple[Acts, Plot]:
    """With further hosts, and with rollouts about the time of what befalls them."""
    if acts.holding is not None or chance.random() >= HOSTS_SHARE:
        return acts, plot
    active_s = max(plot.active_s, HOSTS_ACTIVE_MIN_S)
    faults = sorted(
        (chance.uniform(3.0, active_s), chance.choice(HOST_KINDS))
        for _ in range(chance.randint(1, 6))
    )
    wishes = (*plot.wishes, *_beside(chance, faults, active_s))
    workers = tuple(chance.randint(1, 2) for _ in range(chance.choice((1, 1, 2, 3))))
    apart = chance.random() < APART_SHARE
    plot = replace(
        plot,
        active_s=active_s,
        wishes=tuple(sorted(wishes)),
        workers=0 if apart else plot.workers,
    )
    return replace(acts, hosts=workers, faults=(*acts.faults, *faults)), plot


def draw_pulls(chance: Random, acts: Acts, plot: Plot) -> tuple[Acts, Plot]:
    """With several nodes that pull, and with rollouts about the time of what befalls them."""
    if chance.random() >= PULLS_SHARE:
        return acts, plot
    faults = sorted(
        (chance.uniform(FIRST_WISH_S, plot.active_s), chance.choice(PULL_KINDS))
        for _ in range(chance.randint(0, 4))
    )
    nodes = plot.nodes if len(plot.nodes) > 1 else plot.nodes * 2
    wishes = (*plot.wishes, *_beside(chance, faults, plot.active_s))
    plot = replace(plot, nodes=nodes, wishes=tuple(sorted(wishes)))
    return replace(acts, pulls=True, faults=(*acts.faults, *faults)), plot


def _beside(
    chance: Random, faults: Sequence[tuple[float, str]], active_s: float
) -> Sequence[float]:
    """When somebody wishes for something about the time of a fault."""
    moments = (at_s + chance.uniform(-6.0, 6.0) for at_s, _ in faults if chance.random() < 0.7)
    return [at_s for at_s in moments if FIRST_WISH_S < at_s < active_s]


def _or_good(character: Character | None, chance: Random) -> Character | None:
    return Character.GOOD if chance.random() < GOOD_SHARE else character


def _end(chance: Random) -> list[tuple[float, str]]:
    """What becomes of a canary: seconds and wishes; nothing where it is left standing."""
    roll = chance.random()
    if roll < 0.5:
        return [(0.0, "promote")]
    if roll < 0.65:
        return [(0.0, "cancel canary")]
    if roll < 0.78:
        first, second = chance.sample(("promote", "cancel canary"), 2)
        return [(0.0, first), (chance.uniform(0.0, 0.3), second)]
    if roll < 0.85:
        return [(0.0, "promote"), (chance.uniform(0.0, 4.0), "promote")]
    return []
