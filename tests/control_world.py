"""The control plane's real app, in-process, with short ways to put things there and to call it."""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx

from weighbridge.accounts import service as accounts
from weighbridge.accounts.model import ApiKey, KeyKind, Org
from weighbridge.api.app import create_app
from weighbridge.api.deps import Parts
from weighbridge.clock import Clock
from weighbridge.endpoints import service as endpoints
from weighbridge.engines.base import (
    EngineCapabilities,
    EngineCommand,
    EngineLaunch,
    EngineLoad,
    EngineSettings,
    ProbeOutcome,
    ProbeResult,
)
from weighbridge.errors import InvalidError, UnavailableError
from weighbridge.ingest.s3 import S3Access
from weighbridge.registry import service as registry
from weighbridge.registry.model import ModelVersion, SyncStatus
from weighbridge.routing.acks import GatewayView, open_acks
from weighbridge.routing.hosts.view import OneHost
from weighbridge.runtimes.base import NodeInfo, ReplicaSpec, ReplicaStatus, Resources
from weighbridge.settings import Settings
from weighbridge.storage.database import Database
from weighbridge.storage.tables import model_versions
from weighbridge.weights.filesystem import FilesystemStore
from weighbridge.weights.tensors import TensorSpec

ARCH = "llama-3.3-70b"
PEPPER = b"p" * 32


class ArgvEngine:
    """An engine that is only ever asked for its command."""

    name = "llamacpp"

    def capabilities(self, settings: EngineSettings) -> EngineCapabilities:
        return EngineCapabilities()

    def command(self, launch: EngineLaunch) -> EngineCommand:
        if "--refuse" in launch.settings.extra_args:
            raise InvalidError(
                "--refuse is not an argument of this engine", code="invalid_engine_args"
            )
        return EngineCommand(argv=("serve", *launch.settings.extra_args))

    async def probe(self, url: str, launch: EngineLaunch, *, generate: bool) -> ProbeResult:
        return ProbeResult(ProbeOutcome.STARTING)

    async def load(self, url: str, launch: EngineLaunch) -> EngineLoad | None:
        return None


def _node(cpus: float) -> NodeInfo:
    return NodeInfo("node-1", alive=True, total=Resources(cpus), free=Resources(cpus / 2))


@dataclass
class ShelfRuntime:
    """A runtime whose replicas, logs and nodes a test puts there; `away` makes it unreachable."""

    replicas: list[ReplicaStatus] = field(default_factory=list)
    output: dict[str, str] = field(default_factory=dict)
    away: bool = False
    nodes: list[NodeInfo] = field(default_factory=lambda: [_node(cpus=2)])

    def _check(self) -> None:
        if self.away:
            raise UnavailableError("The runtime is away.", code="runtime_unavailable")

    async def launch(self, spec: ReplicaSpec) -> None:
        raise NotImplementedError

    async def list(self, selector: Mapping[str, str]) -> Sequence[ReplicaStatus]:
        self._check()
        return self.replicas

    async def stop(self, name: str, grace_s: float) -> None:
        raise NotImplementedError

    async def forget(self, name: str) -> None:
        raise NotImplementedError

    async def logs(self, name: str, tail_bytes: int) -> str:
        self._check()
        return self.output.get(name, "")[-tail_bytes:]

    async def capacity(self) -> Sequence[NodeInfo]:
        self._check()
        return self.nodes


@dataclass
class World:
    """The app's parts, what it woke, and short ways to put things there."""

    parts: Parts
    client: httpx.AsyncClient
    runtime: ShelfRuntime
    time: datetime
    woken: list[str] = field(default_factory=list)

    @property
    def database(self) -> Database:
        return self.parts.database

    def pass_time(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)

    async def org(self, name: str) -> Org:
        async with self.database.begin() as tx:
            return await accounts.create_org(
                tx, name, org_id=f"org_{name}", s3_external_id=f"external-{name}", now=self.time
            )

    async def key(
        self, kind: KeyKind, org: Org | None, *, expires_in_s: float | None = None
    ) -> tuple[ApiKey, str]:
        async with self.database.begin() as tx:
            return await accounts.create_key(
                tx,
                kind=kind,
                org_id=None if org is None else org.id,
                name="test",
                expires_at=None
                if expires_in_s is None
                else self.time + timedelta(seconds=expires_in_s),
                pepper=PEPPER,
                key_id=self.parts.clock.new_short_id(),
                secret=self.parts.clock.new_secret(),
                now=self.time,
            )

    async def architecture(self, arch_id: str, *, orgs: Sequence[Org] = ()) -> None:
        async with self.database.begin() as tx:
            await registry.register(
                tx,
                arch_id,
                source_uri="/models/base",
                base_digest="b" * 64,
                tensors=(TensorSpec("w", "F32", (2, 3)),),
                engine=EngineSettings(),
                org_ids=frozenset(org.id for org in orgs),
                now=self.time,
            )

    async def end_sync(
        self, org: Org, ref: int | str, status: SyncStatus = SyncStatus.DONE, arch_id: str = ARCH
    ) -> ModelVersion:
        """What the ingest reconciler would record at the end of a sync."""
        async with self.database.begin() as tx:
            version = await registry.resolve(tx, org.id, arch_id, ref)
            end: dict[str, object] = {"status": status}
            if status is SyncStatus.DONE:
                end["manifest_digest"] = f"{version.number:064x}"
            else:
                end |= {"error_code": "no_access", "error_message": "Access was denied."}
            row = model_versions.c.id == version.id
            await tx.execute(model_versions.update().where(row).values(end))
            return version

    async def create_endpoint(self, endpoint_id: str, org: Org, arch_id: str = ARCH) -> None:
        async with self.database.begin() as tx:
            await endpoints.create(tx, org, endpoint_id, arch_id, now=self.time)


@dataclass(frozen=True)
class Caller:
    """A client that sends one key."""

    client: httpx.AsyncClient
    key: str

    async def __call__(
        self, method: str, path: str, body: object = None, **options: object
    ) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.key}"}
        if body is not None:
            options["content"] = json.dumps(body).encode()
            headers["content-type"] = "application/json"
        return await self.client.request(method, path, headers=headers, **options)


def new_world(database: Database, tmp_path: Path, **settings: object) -> World:
    world: World

    def now() -> datetime:
        return world.time

    runtime = ShelfRuntime()
    configured = Settings(data_dir=tmp_path, **settings)
    woken: list[str] = []
    parts = Parts(
        database=database,
        settings=configured,
        clock=Clock(now=now),
        wake=woken.append,
        pepper=PEPPER,
        store=FilesystemStore(tmp_path / "store"),
        s3=S3Access(configured),
        runtime=runtime,
        engines={"llamacpp": ArgvEngine()},
        gateways=OneHost(GatewayView(open_acks(tmp_path / "acks"))),
    )
    client = httpx.AsyncClient(
        transport=httpx.ASGITransport(create_app(parts)), base_url="http://control"
    )
    world = World(parts, client, runtime, datetime(2026, 1, 12, tzinfo=UTC), woken)
    return world


def write_base_model(directory: Path, *, rows: int = 2) -> Path:
    """A base model as an operator keeps it: config, tokenizer and one shard."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text('{"model_type": "llama"}')
    (directory / "tokenizer.json").write_text("{}")
    size = rows * 3 * 4
    header = {"w": {"dtype": "F32", "shape": [rows, 3], "data_offsets": [0, size]}}
    encoded = json.dumps(header).encode()
    (directory / "model.safetensors").write_bytes(
        struct.pack("<Q", len(encoded)) + encoded + bytes(size)
    )
    return directory
