"""The runtime interface: start, list and stop replicas on machines; no rollout logic inside."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from weighbridge.weights.node.source import WeightSource

NODE_PYTHON = "{python}"
"""In a command: the interpreter of the node that runs it."""
NODE_CACHE = "{cache}"
"""In a command: a directory of the node for what can be made again of weights."""
GROUP_LABEL = "deployment"
"""Label of a replica with the group of its placement, for a runtime that did not launch it itself."""
NODES_LABEL = "nodes"
"""Label of a replica that spans several nodes, with their number; as above."""
PLACED = "starting"
"""Reason of a PENDING process that waits for nothing any more: its place is given, its start is under way."""


class RuntimeState(StrEnum):
    """What a runtime can know of a replica's process; readiness is judged above, by probing."""

    PENDING = "pending"
    FETCHING = "fetching"
    RUNNING = "running"
    STOPPING = "stopping"
    EXITED = "exited"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Weights:
    """What a replica serves: a manifest digest, and its version directory or the `source` that a node pulls it from."""

    digest: str
    path: str
    size_bytes: int
    source: WeightSource | None = None


@dataclass(frozen=True, slots=True)
class Resources:
    cpus: float = 1.0
    gpus: float = 0.0
    memory_bytes: int = 0
    custom: Mapping[str, float] = field(default_factory=dict)


class Spread(StrEnum):
    """Whether replicas of one group keep to different nodes."""

    NONE = "none"
    PREFER = "prefer"
    STRICT = "strict"


@dataclass(frozen=True, slots=True)
class Placement:
    """Which nodes a replica may run on; a runtime of one machine has no choice to make.

    A node must carry each of `node_labels`. `group` names the replicas that `spread` keeps apart. An engine that spans
    several `nodes` is started on one of them and takes the accelerators of all by itself; resources are those of
    each node, and all but the accelerators count on the first one alone.
    """

    node_labels: Mapping[str, str] = field(default_factory=dict)
    spread: Spread = Spread.NONE
    group: str = ""
    nodes: int = 1


@dataclass(frozen=True, slots=True)
class ReplicaSpec:
    """A wish to run one engine process.

    `argv` and the values of `env` may hold the placeholders `{model}` (directory of the weights on
    the node), `{host}` and `{port}` (picked by the node), `{python}` (the node's interpreter) and `{cache}`.
    `secrets` reach the engine's environment and nothing else: no argv, no log, no status.
    """

    name: str
    argv: Sequence[str]
    weights: Weights
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    resources: Resources = field(default_factory=Resources)
    placement: Placement = field(default_factory=Placement)
    grace_s: float = 10.0
    log_bytes_max: int = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """One replica as its runtime sees it.

    `incarnation` is new on each start of the process, so a URL that was handed to somebody else
    since can be told apart. `url` is set while the process runs.
    """

    name: str
    state: RuntimeState
    labels: Mapping[str, str]
    incarnation: str
    node: str
    url: str | None = None
    pid: int | None = None
    exit_code: int | None = None
    reason: str | None = None
    started_at_unix_s: float | None = None


@dataclass(frozen=True, slots=True)
class NodeInfo:
    name: str
    alive: bool
    total: Resources
    free: Resources
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FetchStatus:
    """How far a node is with a version asked for ahead: `words` say it, or once it is `done` what went wrong."""

    node: str
    done: bool
    words: str


class Runtime(Protocol):
    """Every call is idempotent by name and raises UnavailableError when the runtime is away."""

    async def launch(self, spec: ReplicaSpec) -> None:
        """Ask for a replica; returns at once. A name that is known already is left as it is."""

    async def list(self, selector: Mapping[str, str]) -> Sequence[ReplicaStatus]:
        """Every replica whose labels contain `selector`; ended ones too, until forgotten."""

    async def stop(self, name: str, grace_s: float) -> None:
        """SIGTERM, `grace_s`, SIGKILL of the tree; returns at once; unknown names are fine."""

    async def forget(self, name: str) -> None:
        """Drop the record of an ended replica; a running one is left alone."""

    async def logs(self, name: str, tail_bytes: int) -> str:
        """The end of the replica's output; empty when there is none."""

    async def capacity(self) -> Sequence[NodeInfo]:
        """The nodes and what is free on them."""
