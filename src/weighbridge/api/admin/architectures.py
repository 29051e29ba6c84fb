"""Admin routes of model architectures: what weights must fit, and how they are served."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints

from weighbridge.acceptance import store as acceptance
from weighbridge.accounts import service as accounts
from weighbridge.api.admin.router import Body, admin_router
from weighbridge.api.answers import Answer, unix_s
from weighbridge.api.deps import Control, Parts
from weighbridge.engines.base import EngineLaunch, EngineSettings, find_engine, served_name
from weighbridge.errors import InvalidError
from weighbridge.ingest.base_model import read_base_model
from weighbridge.registry import service
from weighbridge.registry.model import Architecture
from weighbridge.registry.names import check_arch_id
from weighbridge.storage.database import Transaction
from weighbridge.weights.base import WeightStore
from weighbridge.weights.manifest import FileEntry, Manifest

router = admin_router()

Text = Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=r"^[^\x00]*$")]
EnvName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]
ResourceName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_.:/-]{0,127}$")]
Amount = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
LabelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_./-]{0,127}$")]
LabelValue = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]


class Engine(Body):
    """How an architecture is served; what is left out has the engine's default."""

    engine: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,32}$")] = "llamacpp"
    context_tokens: int | None = Field(default=None, ge=1, le=10_000_000)
    slots: int = Field(default=4, ge=1, le=4096)
    threads: int = Field(default=1, ge=1, le=1024)
    gpus: int = Field(
        default=0, ge=0, le=64, description="Accelerators per replica, on each of its nodes."
    )
    nodes: int = Field(
        default=1, ge=1, le=64, description="Nodes of a Ray cluster that one replica spans."
    )
    tensor_parallel: int | None = Field(
        default=None, ge=1, le=4096, description="Accelerators that share each layer."
    )
    pipeline_parallel: int | None = Field(
        default=None, ge=1, le=4096, description="Stages that the layers are divided into."
    )
    dtype: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]{1,32}$")] | None = None
    extra_args: list[Text] = Field(default=[], max_length=256)
    env: dict[EnvName, Text] = Field(default={}, max_length=256)
    command: list[Text] = Field(default=[], max_length=256)
    health_path: Annotated[str, StringConstraints(pattern=r"^/[!-~]{0,255}$")] = "/health"
    start_timeout_s: float = Field(default=600.0, gt=0, le=86_400, allow_inf_nan=False)
    memory_bytes: int = Field(
        default=0, ge=0, le=1 << 50, description="Memory of its node per replica; 0: not counted."
    )
    resources: dict[ResourceName, Amount] = Field(
        default={}, max_length=16, description="What nodes of a cluster offer by name, per replica."
    )
    node_labels: dict[LabelName, LabelValue] = Field(
        default={}, max_length=16, description="What a node of a cluster must carry."
    )
    spread: Literal["none", "prefer", "strict"] = Field(
        default="none", description="Whether a rollout's replicas keep to different nodes."
    )

    def settings(self) -> EngineSettings:
        return EngineSettings(
            engine=self.engine,
            context_tokens=self.context_tokens,
            slots=self.slots,
            threads=self.threads,
            gpus=self.gpus,
            nodes=self.nodes,
            tensor_parallel=self.tensor_parallel,
            pipeline_parallel=self.pipeline_parallel,
            dtype=self.dtype,
            extra_args=tuple(self.extra_args),
            env=dict(self.env),
            command=tuple(self.command),
            health_path=self.health_path,
            start_timeout_s=self.start_timeout_s,
            memory_bytes=self.memory_bytes,
            resources=dict(self.resources),
            node_labels=dict(self.node_labels),
            spread=self.spread,
        )

    @classmethod
    def of(cls, settings: EngineSettings) -> Self:
        return cls.model_validate(
            {name: getattr(settings, name) for name in cls.model_fields}
            | {"extra_args": list(settings.extra_args), "command": list(settings.command)}
        )


class ArchitectureRequest(Body):
    model_arch_id: str
    source: Text = Field(description="Directory on the server, or s3:// prefix, of the base model.")
    engine: Engine = Engine()
    org_names: list[str] = Field(
        default=[], max_length=1000, description="Who may use it; empty means every organization."
    )


class ArchitectureAnswer(Answer):
    model_arch_id: str
    source: str
    digest: str = Field(description="Names the operator's files: config, tokenizer, template.")
    tensors: int
    parameters: int
    engine: Engine
    org_names: list[str]
    created: int
    updated: int

    @classmethod
    def of(cls, architecture: Architecture, org_names: Mapping[str, str]) -> Self:
        return cls(
            model_arch_id=architecture.id,
            source=architecture.source_uri,
            digest=architecture.base_digest,
            tensors=len(architecture.tensors),
            parameters=sum(math.prod(spec.shape) for spec in architecture.tensors),
            engine=Engine.of(architecture.engine),
            org_names=sorted(org_names[org_id] for org_id in architecture.org_ids),
            created=unix_s(architecture.created_at),
            updated=unix_s(architecture.updated_at),
        )


class Architectures(Answer):
    architectures: list[ArchitectureAnswer]


@router.post("/architectures", operation_id="register_architecture")
async def register(body: ArchitectureRequest, control: Control) -> ArchitectureAnswer:
    """Register an architecture from a base model. The same content again changes source and orgs only."""
    check_arch_id(body.model_arch_id)
    engine = body.engine.settings()
    check_engine(control, engine)
    async with control.database.begin() as tx:
        org_ids = [(await accounts.org_by_name(tx, name)).id for name in body.org_names]
    base = await read_base_model(body.source, control.s3)
    digest = await asyncio.to_thread(keep_files, control.store, base.files)
    async with control.database.begin() as tx:
        architecture = await service.register(
            tx,
            body.model_arch_id,
            source_uri=base.source_uri,
            base_digest=digest,
            tensors=base.tensors,
            engine=engine,
            org_ids=frozenset(org_ids),
            now=control.clock.now(),
        )
        (answer,) = await _answers(tx, [architecture])
    return answer


def check_engine(parts: Parts, settings: EngineSettings) -> None:
    """InvalidError when no such engine is here or it cannot be started with these settings."""
    if settings.nodes > 1:
        _check_nodes(parts, settings)
    find_engine(parts.engines, settings.engine).command(
        EngineLaunch(
            replica_id="check",
            digest="0" * 64,
            served_name=served_name("check", "0" * 64),
            token="unused",  # noqa: S106 - the command is thrown away
            settings=settings,
            cache_dir=str(parts.settings.paths.cache),
        )
    )


def _check_nodes(parts: Parts, settings: EngineSettings) -> None:
    needs = f"A replica over {settings.nodes} nodes needs"
    if parts.settings.runtime == "local":
        raise InvalidError(
            f"{needs} a Ray cluster (WEIGHBRIDGE_RUNTIME=ray); this server runs replicas on its own machine.",
            param="engine.nodes",
        )
    if parts.settings.nodes_pull:
        raise InvalidError(
            f"{needs} its weights at the same path on all of them (WEIGHBRIDGE_RAY_WEIGHTS=path); here each node pulls "
            "a version for itself when a replica starts on it.",
            param="engine.nodes",
        )


def keep_files(store: WeightStore, files: Mapping[str, bytes]) -> str:
    """Put the operator's files into the weight store; returns the digest of their manifest. Blocking."""
    entries = []
    for path, content in files.items():
        digest, size_bytes = store.put_bytes(content)
        entries.append(FileEntry(path, size_bytes, digest))
    return store.publish(Manifest.of(entries))


async def _answers(
    tx: Transaction, architectures: Sequence[Architecture]
) -> list[ArchitectureAnswer]:
    names = {org.id: org.name for org in await accounts.orgs(tx)}
    return [ArchitectureAnswer.of(architecture, names) for architecture in architectures]


@router.get("/architectures", operation_id="list_architectures")
async def list_all(control: Control) -> Architectures:
    """List the registered architectures by id."""
    async with control.database.begin() as tx:
        found = await _answers(tx, await service.architectures(tx, None))
    return Architectures(architectures=found)


@router.get("/architectures/{model_arch_id}", operation_id="get_architecture")
async def get(model_arch_id: str, control: Control) -> ArchitectureAnswer:
    """Retrieve one architecture."""
    async with control.database.begin() as tx:
        (answer,) = await _answers(tx, [await service.architecture(tx, model_arch_id)])
    return answer


@router.delete("/architectures/{model_arch_id}", operation_id="delete_architecture")
async def delete(model_arch_id: str, control: Control) -> ArchitectureAnswer:
    """Delete an architecture that no version and no endpoint uses."""
    async with control.database.begin() as tx:
        found = await service.delete_architecture(tx, model_arch_id, now=control.clock.now())
        await acceptance.clear(tx, acceptance.Scope.ARCHITECTURE, model_arch_id)
        (answer,) = await _answers(tx, [found])
    return answer
