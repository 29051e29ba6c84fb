"""One installation in a simulated world: what its control planes share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from random import Random

from simulation.engines.engine import SimEngine
from simulation.engines.machines import Machines
from simulation.engines.manners import ALIKE, Manner
from simulation.engines.versions import Character, draw_character
from simulation.gateways.gateway import Gateway
from simulation.gateways.snapshots import File
from simulation.history.log import Log
from simulation.memory.database import Server
from simulation.scheduler import SimLoop
from simulation.steps import Steps
from weighbridge.errors import NotFoundError
from weighbridge.rollouts.model import RolloutLimits
from weighbridge.routing.model import KeyTable, RouteTable
from weighbridge.weights.manifest import FileEntry, Manifest

SIZE_BYTES = 10
"""Of every version."""
HEAR_S = (0.001, 0.02)
"""How soon a wake-up comes through the database."""


@dataclass(slots=True)
class Weights:
    """The weight store: which manifests are published."""

    published: set[str] = field(default_factory=set)

    def version_dir(self, digest: str) -> Path:
        if digest not in self.published:
            raise NotFoundError(f"the weights {digest} are not in the store")
        return Path("/simulated/store") / digest

    def manifest(self, digest: str) -> Manifest:
        self.version_dir(digest)
        return Manifest((FileEntry("weights", SIZE_BYTES, digest),))


@dataclass(slots=True)
class Site:
    loop: SimLoop
    chance: Random
    log: Log
    wall: Callable[[], datetime]
    server: Server
    machines: Machines
    engine: SimEngine
    gateway: Gateway
    routes: File[RouteTable]
    keys: File[KeyTable]
    characters: dict[str, Character]
    """By digest."""
    limits: RolloutLimits
    hold_s: float
    examined: bool
    """Whether new replicas have acceptance probes."""
    draw_manner: Callable[[], Manner]
    manners: dict[str, Manner]
    """By digest, as `characters`."""
    gateways: list[Gateway] = field(default_factory=list)
    """Of all machines, `gateway` first."""
    ears: list[Callable[[], None]] = field(default_factory=list)
    """Of the further machines' couriers: called when there is a newer table."""
    deaf: bool = False
    """Whether such wake-ups are lost."""
    weights: Weights = field(default_factory=Weights)
    steps: Steps = field(default_factory=Steps)
    _bytes: dict[str, str | None] = field(default_factory=dict)

    @property
    def engines(self) -> Mapping[str, SimEngine]:
        """By name, as a control plane has its adapters."""
        return {self.engine.name: self.engine}

    def bytes_of(self, version_id: str) -> str | None:
        """The digest that a sync of this version finds, the same each time; None: its bucket cannot be read."""
        if version_id not in self._bytes:
            self._bytes[version_id] = None if self.chance.random() < 0.1 else self.new_bytes()
        return self._bytes[version_id]

    def new_bytes(self, character: Character | None = None) -> str:
        digest = f"{self.chance.getrandbits(256):064x}"
        self.characters[digest] = character or draw_character(self.chance)
        # The first version is what all the others are compared with, so it answers well.
        manner = self.manners[digest] = self.draw_manner() if self.manners else ALIKE
        if manner != ALIKE:
            self.log.add("manner", digest=digest, manner=manner.name)
        return digest

    def tell(self) -> None:
        """Whoever listens, that there is a newer table."""
        if not self.deaf:
            for hear in self.ears:
                self.loop.later(self.chance.uniform(*HEAR_S), hear)

    def publish(self, digest: str) -> None:
        self.weights.published.add(digest)
        self.log.add("stored", digest=digest)
