"""Machines and the engine processes on them, as records; what a runtime says of them may lag behind, or be missing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from simulation.engines.pulls import Pulls
from simulation.engines.versions import Character, Fate, draw_fate
from simulation.history.log import Log
from simulation.scheduler import SimLoop
from simulation.steps import Steps
from weighbridge.errors import UnavailableError
from weighbridge.runtimes.base import (
    PLACED,
    FetchStatus,
    NodeInfo,
    ReplicaSpec,
    ReplicaStatus,
    RuntimeState,
    Weights,
)

PORTS = 6
"""Few, so that a port is soon another process's."""
STOP_S = (0.05, 1.5)


class Stream(Protocol):
    """A request that a process answers."""

    def cut(self) -> None:
        """Its process has ended."""


@dataclass(eq=False, slots=True)
class Engine:
    """One process from its launch to the day it is forgotten. `alive` is the truth, `state` what the node says."""

    spec: ReplicaSpec
    incarnation: str
    node: str
    state: RuntimeState = RuntimeState.PENDING
    started: bool = False
    alive: bool = False
    fate: Fate | None = None
    running_at_s: float = 0.0
    url: str | None = None
    exit_code: int | None = None
    reason: str | None = None
    streams: dict[Stream, None] = field(default_factory=dict)

    @property
    def held(self) -> bool:
        return self.started and self.state is not RuntimeState.EXITED


@dataclass(slots=True)
class Node:
    name: str
    slots: int
    alive: bool = True
    taken: int = 0
    """Slots that somebody else's programs have taken."""
    disk_full: bool = False


@dataclass(slots=True)
class Machines:
    """Every machine of a world. `away` is the way to them all."""

    loop: SimLoop
    chance: Random
    log: Log
    nodes: dict[str, Node]
    characters: Mapping[str, Character]
    pulls: Pulls | None = None
    """Where nodes pull what they run; None: every node has it."""
    away: bool = False
    engines: dict[str, Engine] = field(default_factory=dict)
    started: int = 0

    def launch(self, spec: ReplicaSpec, *, late: bool = False) -> None:
        """`late`: the call comes when its sender has given it up."""
        if spec.name in self.engines:
            return
        self.started += 1
        self.engines[spec.name] = Engine(spec, f"i{self.started}", "")
        self.log.add("launched", replica=spec.name, digest=spec.weights.digest, late=late)
        self.admit()

    def admit(self) -> None:
        for engine in self.engines.values():
            if engine.state is RuntimeState.PENDING and not engine.started:
                node = self._room()
                if node is None:
                    engine.reason = "every place is taken"
                else:
                    engine.node, engine.started, engine.reason = node.name, True, PLACED
                    self._fetch(engine)

    def _fetch(self, engine: Engine) -> None:
        def there() -> None:
            if engine.state is RuntimeState.FETCHING:
                engine.state, engine.reason = RuntimeState.PENDING, PLACED
            self._later(self.chance.uniform(0.02, 0.5), engine, self._run)

        if self.pulls is None:
            there()
        else:
            engine.state, engine.reason = RuntimeState.FETCHING, "pulling"
            self.pulls.bring(engine.node, engine.spec.weights.digest, there)

    def _room(self) -> Node | None:
        """The first that has any; where nodes pull, the one with the fewest replicas, so that several have to."""
        found: Node | None = None
        least = 0
        for node in self.nodes.values():
            held = sum(e.held and e.node == node.name for e in self.engines.values())
            if node.alive and held + node.taken < node.slots:
                if self.pulls is None:
                    return node
                if found is None or held < least:
                    found, least = node, held
        return found

    def _later(self, delay_s: float, engine: Engine, act: Callable[[Engine], None]) -> None:
        def due() -> None:
            if self.engines.get(engine.spec.name) is engine and engine.held:
                act(engine)

        self.loop.later(delay_s, due)

    def _run(self, engine: Engine) -> None:
        node = self.nodes[engine.node]
        if engine.state is RuntimeState.STOPPING:
            self._end(engine, None, "stopped before it started")
            return
        if engine.state is not RuntimeState.PENDING:
            return
        if node.disk_full:
            self._end(engine, None, "could not start: no space left on device")
            return
        taken = {e.url for e in self.engines.values() if e.held}
        free = [f"http://{node.name}:{p}" for p in range(PORTS + node.slots)]
        engine.url = self.chance.choice([url for url in free if url not in taken])
        engine.state, engine.alive, engine.reason = RuntimeState.RUNNING, True, None
        engine.running_at_s = self.loop.time()
        character = self.characters[engine.spec.weights.digest]
        engine.fate = draw_fate(character, self.chance)
        self.log.add("started", replica=engine.spec.name, node=node.name, url=engine.url)
        if engine.fate.crash_s is not None:
            self._later(engine.fate.crash_s, engine, self.crash)

    def crash(self, engine: Engine) -> None:
        if engine.alive:
            self._end(engine, self.chance.choice([1, -9, -11]), None)

    def stop(self, name: str) -> None:
        engine = self.engines.get(name)
        if engine is None or engine.state in (
            RuntimeState.EXITED,
            RuntimeState.STOPPING,
            RuntimeState.LOST,
        ):
            return
        self.log.add("stop", replica=name, streams=len(engine.streams))
        if not engine.started or engine.state is RuntimeState.FETCHING:
            self._end(engine, None, "stopped before it started")
            return
        engine.state = RuntimeState.STOPPING
        if engine.alive:
            self._later(self.chance.uniform(*STOP_S), engine, self._stopped)

    def _stopped(self, engine: Engine) -> None:
        self._end(engine, None, "stopped")

    def _end(self, engine: Engine, exit_code: int | None, reason: str | None) -> None:
        self.log.add("exited", replica=engine.spec.name, code=exit_code, reason=reason)
        engine.state = RuntimeState.EXITED
        engine.exit_code, engine.reason, engine.url = exit_code, reason, None
        self._die(engine)
        self.admit()

    def _die(self, engine: Engine) -> None:
        engine.alive = False
        streams, engine.streams = list(engine.streams), {}
        for stream in streams:
            stream.cut()

    def lose_node(self, name: str) -> None:
        """A machine is gone, with all it runs; the runtime says so of each."""
        self.nodes[name].alive = False
        if self.pulls is not None:
            self.pulls.lose(name)
        for engine in self.engines.values():
            if engine.node == name and engine.held:
                self.log.add("lost", replica=engine.spec.name)
                engine.state, engine.reason, engine.url = (
                    RuntimeState.LOST,
                    "its node is lost",
                    None,
                )
                self._die(engine)

    def return_node(self, name: str) -> None:
        """It comes back empty."""
        self.nodes[name].alive = True
        for engine in list(self.engines.values()):
            if engine.node == name and engine.state is RuntimeState.LOST:
                self._end(engine, None, "its node came back without it")
        self.admit()

    def restart_agent(self) -> None:
        """The agent died and took its engines with it; the records of a few are gone altogether."""
        for name, engine in list(self.engines.items()):
            if engine.started and engine.state is not RuntimeState.EXITED:
                self._end(engine, None, "its node agent died, so it was stopped")
            if engine.state is not RuntimeState.EXITED or self.chance.random() < 0.3:
                del self.engines[name]
                self.log.add("forgotten", replica=name)

    def forget(self, name: str) -> None:
        engine = self.engines.get(name)
        if engine is not None and engine.state is RuntimeState.EXITED:
            del self.engines[name]

    def at(self, url: str | None) -> Engine | None:
        """Who listens there now."""
        for engine in self.engines.values():
            if url is not None and engine.url == url and engine.alive:
                return engine
        return None

    def serves(self, engine: Engine) -> bool:
        """Whether a request that reaches it now is answered."""
        fate = engine.fate
        return (
            engine.alive
            and fate is not None
            and engine.state is RuntimeState.RUNNING
            and self.loop.time() >= engine.running_at_s + fate.load_s
            and not fate.hangs
            and not fate.no_token
        )


class SimRuntime:
    """A control plane's way to the machines: calls take time, get lost, come late or come twice."""

    def __init__(self, machines: Machines, steps: Steps) -> None:
        self._machines = machines
        self._steps = steps
        self.lossy = 0.0
        """Share of calls that go wrong."""

    async def launch(self, spec: ReplicaSpec) -> None:
        await self._call(
            "launch",
            lambda: self._machines.launch(spec),
            lambda: self._machines.launch(spec, late=True),
        )

    async def fetch(self, weights: Weights, nodes: Sequence[str]) -> Sequence[FetchStatus]:
        machines = self._machines
        await self._pass()
        self._refuse()
        assert machines.pulls is not None
        living = [name for name in nodes if machines.nodes[name].alive]
        statuses = [machines.pulls.status(name, weights.digest) for name in living]
        await self._pass()
        return statuses

    async def stop(self, name: str, grace_s: float) -> None:
        await self._call("stop", lambda: self._machines.stop(name))

    async def forget(self, name: str) -> None:
        await self._call("forget", lambda: self._machines.forget(name))

    async def list(self, selector: Mapping[str, str]) -> Sequence[ReplicaStatus]:
        await self._pass()
        self._refuse()
        return [
            _status(engine)
            for engine in self._machines.engines.values()
            if selector.items() <= engine.spec.labels.items()
        ]

    async def logs(self, name: str, tail_bytes: int) -> str:
        await self._pass()
        self._refuse()
        return "loading\nit broke\n"

    async def capacity(self) -> Sequence[NodeInfo]:
        return []

    async def _call(
        self, name: str, act: Callable[[], None], late: Callable[[], None] | None = None
    ) -> None:
        machines, chance = self._machines, self._machines.chance
        await self._pass()
        self._refuse()
        if self.lossy == 0.0 or chance.random() >= self.lossy:
            step = self._steps.begin(name)
            if step is not None:
                act()
                self._steps.end(step)
            await self._pass()
            return
        way = chance.choice(("lost", "no answer", "late", "twice"))
        machines.log.add("fault", name="call", way=way)
        if way in ("no answer", "twice"):
            act()
        if way in ("late", "twice"):
            machines.loop.later(chance.uniform(0.5, 8.0), late or act)
        await self._pass()
        if way != "twice":
            raise UnavailableError("the node agent did not answer in time")

    def _refuse(self) -> None:
        if self._machines.away:
            raise UnavailableError("the node agent is away")

    async def _pass(self) -> None:
        machines = self._machines
        await machines.loop.pause(0.0005 + 0.002 * machines.chance.random())


def _status(engine: Engine) -> ReplicaStatus:
    return ReplicaStatus(
        name=engine.spec.name,
        state=engine.state,
        labels=engine.spec.labels,
        incarnation=engine.incarnation,
        node=engine.node,
        url=engine.url,
        exit_code=engine.exit_code,
        reason=engine.reason,
    )
