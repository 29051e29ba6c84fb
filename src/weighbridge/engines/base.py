"""The engine interface: how to start, prove and watch one engine program."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from weighbridge.errors import InvalidError

TOKEN_VARIABLE = "WEIGHBRIDGE_ENGINE_TOKEN"  # noqa: S105 - the name of a variable, not a secret
"""Where an engine of ours, or a command of the operator's, finds the token it must demand."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How an architecture is served; stored with the architecture, the same for all its versions.

    `gpus` accelerators of the node belong to one replica alone; it sees no others. A replica that spans several
    `nodes` of a cluster has as many on each; `tensor_parallel` × `pipeline_parallel` is how they share the model.
    `resources` are amounts of what a cluster's nodes offer by name, `node_labels` what a node must carry, and
    `spread` (none, prefer, strict) says whether the replicas of a rollout keep to different nodes.
    """

    engine: str = "llamacpp"
    context_tokens: int | None = None
    slots: int = 4
    threads: int = 1
    gpus: int = 0
    nodes: int = 1
    tensor_parallel: int | None = None
    pipeline_parallel: int | None = None
    dtype: str | None = None
    extra_args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    health_path: str = "/health"
    start_timeout_s: float = 600.0
    memory_bytes: int = 0
    resources: Mapping[str, float] = field(default_factory=dict)
    node_labels: Mapping[str, str] = field(default_factory=dict)
    spread: str = "none"


@dataclass(frozen=True, slots=True)
class EngineLaunch:
    """One start of an engine: which replica it is and which bytes it must serve.

    `served_name` is what the engine must report as its model (it names replica and digest, R15); `token`
    is the bearer token it must demand on inference routes (G12).
    """

    replica_id: str
    digest: str
    served_name: str
    token: str
    settings: EngineSettings
    cache_dir: str


@dataclass(frozen=True, slots=True)
class EngineCommand:
    """Placeholders `{model}`, `{host}` and `{port}` in argv and env are filled in on the node."""

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)


def check_one_node(settings: EngineSettings, engine: str) -> None:
    """InvalidError where several nodes are asked of an engine that runs on one, or shares that it has no word for."""
    if settings.nodes > 1:
        raise InvalidError(
            f"engine `{engine}` runs on one node; only vllm can span {settings.nodes}.",
            param="engine.nodes",
        )
    if settings.tensor_parallel is not None or settings.pipeline_parallel is not None:
        raise InvalidError(
            f"engine `{engine}` takes neither tensor_parallel nor pipeline_parallel; vllm does.",
            param="engine.tensor_parallel",
        )


class ProbeOutcome(StrEnum):
    STARTING = "starting"
    READY = "ready"
    WRONG_IDENTITY = "wrong_identity"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True)
class ProbeResult:
    outcome: ProbeOutcome
    detail: str = ""


@dataclass(frozen=True, slots=True)
class EngineLoad:
    running: int
    waiting: int


@dataclass(frozen=True, slots=True)
class EngineCapabilities:
    """What an engine can honour; what it cannot is refused at the gateway, never dropped in silence."""

    logprobs: bool = True
    json_schema: bool = True
    tools: bool = False
    reasoning: bool = False
    min_tokens: bool = False
    choices_max: int = 1


def served_name(replica_id: str, digest: str) -> str:
    """The model name an engine must report: it proves which replica answers with which bytes (R15)."""
    return f"{replica_id}.{digest[:32]}"


class Engine(Protocol):
    @property
    def name(self) -> str: ...

    def capabilities(self, settings: EngineSettings) -> EngineCapabilities: ...

    def command(self, launch: EngineLaunch) -> EngineCommand:
        """Raises InvalidError when the settings cannot be turned into a command."""

    async def probe(self, url: str, launch: EngineLaunch, *, generate: bool) -> ProbeResult:
        """Ask a running engine who it is; with `generate`, also for one real token.

        Never raises for a state of the world.
        """

    async def load(self, url: str, launch: EngineLaunch) -> EngineLoad | None:
        """Requests running and waiting, or None when the engine does not say."""


def find_engine(known: Mapping[str, Engine], name: str) -> Engine:
    """Raises InvalidError for a name that is not among those this server can start."""
    if name not in known:
        raise InvalidError(
            f"There is no engine '{name}' here; there are: {', '.join(sorted(known))}.",
            code="unknown_engine",
            param="engine.engine",
        )
    return known[name]
