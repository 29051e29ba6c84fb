"""Versions on their way to nodes: each pulls what its replicas need, or is asked for ahead, into a cache of its own."""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from simulation.history.log import Log
from simulation.scheduler import SimLoop
from weighbridge.runtimes.base import FetchStatus

PULL_S = (0.5, 12.0)
TRY_S = 1.0
"""After which a node tries again whose source is away."""
ROOM_SHARE = 0.15
"""How often a node has no room for a version while a replica of it uses another."""
Waiting = Callable[[], None]


@dataclass(slots=True)
class Pull:
    """One version's way to one node. `error`: it ended without it."""

    node: str
    digest: str
    done: bool = False
    error: str = ""
    waiting: list[Waiting] = field(default_factory=list)
    """Replicas that start once it is over."""


@dataclass(slots=True)
class Pulls:
    """The caches of all nodes. `away`: nobody can pull at the moment."""

    loop: SimLoop
    chance: Random
    log: Log
    away: bool = False
    _pulls: dict[tuple[str, str], Pull] = field(default_factory=dict)

    def status(self, node: str, digest: str) -> FetchStatus:
        """How far a node is; it begins with the first question."""
        pull = self._pulls.get((node, digest))
        if pull is None:
            pull = self._begin(node, digest, ahead=True)
        words = pull.error if pull.done else "pulling"
        return FetchStatus(node, pull.done, words)

    def bring(self, node: str, digest: str, then: Waiting) -> None:
        """For a replica: `then` is called when the node has it. What had no room ahead has it now."""
        pull = self._pulls.get((node, digest))
        if pull is None or pull.error:
            pull = self._begin(node, digest, ahead=False)
        if pull.done:
            then()
        else:
            pull.waiting.append(then)

    def lose(self, node: str) -> None:
        """The node is gone, with its cache."""
        self.log.add("cache.lost", node=node)
        self._pulls = {key: pull for key, pull in self._pulls.items() if key[0] != node}

    def _begin(self, node: str, digest: str, *, ahead: bool) -> Pull:
        pull = self._pulls[node, digest] = Pull(node, digest)
        self.log.add("pull", node=node, digest=digest, ahead=ahead)
        fails = ahead and self.chance.random() < ROOM_SHARE
        self.loop.later(self.chance.uniform(*PULL_S), self._end, pull, fails)
        return pull

    def _end(self, pull: Pull, fails: bool) -> None:
        if self._pulls.get((pull.node, pull.digest)) is not pull:
            return
        if self.away:
            self.loop.later(TRY_S, self._end, pull, fails)
            return
        pull.done = True
        if fails and not pull.waiting:
            pull.error = "no room"
        self.log.add("pulled", node=pull.node, digest=pull.digest, error=pull.error)
        waiting, pull.waiting = pull.waiting, []
        for then in waiting:
            then()
