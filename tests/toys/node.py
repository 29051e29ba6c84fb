"""A node in memory: processes, engines and weights as records, honest about their interfaces."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from weighbridge.engines.base import (
    EngineCapabilities,
    EngineCommand,
    EngineLaunch,
    EngineLoad,
    EngineSettings,
    ProbeOutcome,
    ProbeResult,
)
from weighbridge.errors import NotFoundError
from weighbridge.runtimes.base import NodeInfo, ReplicaSpec, ReplicaStatus, RuntimeState


@dataclass
class ToyRuntime:
    """Processes as records; `crashing` are the versions whose engines exit at once."""

    places: int = 64
    crashing: set[str] = field(default_factory=set)
    processes: dict[str, ReplicaStatus] = field(default_factory=dict)
    launched: list[str] = field(default_factory=list)
    tokens: dict[str, str] = field(default_factory=dict)

    async def launch(self, spec: ReplicaSpec) -> None:
        if spec.name in self.processes:
            return
        self.launched.append(spec.name)
        self.tokens[spec.name] = spec.secrets["TOKEN"]
        self.processes[spec.name] = ReplicaStatus(
            name=spec.name,
            state=RuntimeState.PENDING,
            labels=spec.labels,
            incarnation=f"{spec.name}.{len(self.launched)}",
            node="toy",
        )
        self._admit()

    def _admit(self) -> None:
        for name, status in self.processes.items():
            held = sum(
                s.state in (RuntimeState.RUNNING, RuntimeState.STOPPING)
                for s in self.processes.values()
            )
            if status.state is not RuntimeState.PENDING:
                continue
            if held >= self.places:
                self.processes[name] = replace(status, reason="every place is taken")
            elif status.labels["version"] in self.crashing:
                self.exit(name, 1)
            else:
                self.processes[name] = replace(
                    status, state=RuntimeState.RUNNING, url=f"http://toy/{name}", reason=None
                )

    async def list(self, selector: Mapping[str, str]) -> Sequence[ReplicaStatus]:
        self._admit()
        return [s for s in self.processes.values() if selector.items() <= s.labels.items()]

    async def stop(self, name: str, grace_s: float) -> None:
        if name in self.processes:
            self.exit(name, 0)

    def exit(self, name: str, code: int | None) -> None:
        self.processes[name] = replace(
            self.processes[name], state=RuntimeState.EXITED, url=None, exit_code=code
        )

    async def forget(self, name: str) -> None:
        status = self.processes.get(name)
        if status is not None and status.state is RuntimeState.EXITED:
            del self.processes[name]

    async def logs(self, name: str, tail_bytes: int) -> str:
        return "loading\ncannot load tensor blk.0\n"

    async def capacity(self) -> Sequence[NodeInfo]:
        return []


@dataclass
class ToyEngine:
    runtime: ToyRuntime
    sick: set[str] = field(default_factory=set)
    strangers: set[str] = field(default_factory=set)
    generated: list[str] = field(default_factory=list)
    name: str = "llamacpp"

    def capabilities(self, settings: EngineSettings) -> EngineCapabilities:
        return EngineCapabilities(choices_max=2, min_tokens=True)

    def command(self, launch: EngineLaunch) -> EngineCommand:
        return EngineCommand(["engine", launch.served_name], secrets={"TOKEN": launch.token})

    async def probe(self, url: str, launch: EngineLaunch, *, generate: bool) -> ProbeResult:
        status = self.runtime.processes.get(launch.replica_id)
        if status is None or status.url != url:
            return ProbeResult(ProbeOutcome.UNHEALTHY, "connection refused")
        if self.runtime.tokens[launch.replica_id] != launch.token:
            return ProbeResult(ProbeOutcome.WRONG_IDENTITY, "token refused")
        if launch.replica_id in self.strangers:
            return ProbeResult(ProbeOutcome.WRONG_IDENTITY, "serves another digest")
        if launch.replica_id in self.sick:
            return ProbeResult(ProbeOutcome.UNHEALTHY, "hangs")
        if generate:
            self.generated.append(launch.replica_id)
        return ProbeResult(ProbeOutcome.READY)

    async def load(self, url: str, launch: EngineLaunch) -> EngineLoad | None:
        return None


@dataclass
class ToyStore:
    missing: set[str] = field(default_factory=set)

    def version_dir(self, digest: str) -> Path:
        if digest in self.missing:
            raise NotFoundError(f"the weights {digest} are not in the store")
        return Path("/weights") / digest
