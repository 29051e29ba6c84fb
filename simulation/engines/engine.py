"""The engine adapter of the simulation: probes that see what the process at an address really is."""

from random import Random

from simulation.engines.machines import Machines
from simulation.history.log import Log
from weighbridge.engines.base import (
    EngineCapabilities,
    EngineCommand,
    EngineLaunch,
    EngineLoad,
    EngineSettings,
    ProbeOutcome,
    ProbeResult,
)

NAME = "llamacpp"


class SimEngine:
    """`flapping` is the share of probes of healthy processes that fail all the same, by a fault."""

    name = NAME

    def __init__(self, machines: Machines, chance: Random, log: Log) -> None:
        self._machines = machines
        self._chance = chance
        self._log = log
        self.flapping = 0.0

    def capabilities(self, settings: EngineSettings) -> EngineCapabilities:
        return EngineCapabilities()

    def command(self, launch: EngineLaunch) -> EngineCommand:
        return EngineCommand(("engine", launch.served_name), secrets={"TOKEN": launch.token})

    async def probe(self, url: str, launch: EngineLaunch, *, generate: bool) -> ProbeResult:
        machines, chance = self._machines, self._chance
        await machines.loop.pause(0.001 + 0.01 * chance.random())
        engine = machines.at(url)
        fate = None if engine is None else engine.fate
        if engine is None or fate is None:
            return self._told(launch, ProbeOutcome.STARTING, "nobody listens", generate=generate)
        if fate.hangs:
            await machines.loop.pause(3_600.0)
        if machines.loop.time() < engine.running_at_s + fate.load_s:
            return self._told(launch, ProbeOutcome.STARTING, "it loads", generate=generate)
        if engine.spec.argv[1] != launch.served_name or fate.wrong_digest:
            words = f"it serves {engine.spec.argv[1]}"
            return self._told(launch, ProbeOutcome.WRONG_IDENTITY, words, generate=generate)
        unsteady = 0.6 if fate.flaps else self.flapping
        if (generate and fate.no_token) or (unsteady and chance.random() < unsteady):
            return self._told(launch, ProbeOutcome.UNHEALTHY, "it hiccups", generate=generate)
        return self._told(launch, ProbeOutcome.READY, "", generate=generate)

    def _told(
        self, launch: EngineLaunch, outcome: ProbeOutcome, detail: str, *, generate: bool
    ) -> ProbeResult:
        self._log.add(
            "probed", replica=launch.replica_id, outcome=outcome.value, generated=generate
        )
        return ProbeResult(outcome, detail)

    async def load(self, url: str, launch: EngineLaunch) -> EngineLoad | None:
        return None
