"""Admin routes of what runs: replicas and their logs, nodes, and the control plane itself."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

from fastapi import Query
from pydantic import Field

from weighbridge.accounts.names import quoted
from weighbridge.api.admin.router import admin_router
from weighbridge.api.answers import Answer, unix_s
from weighbridge.api.deps import Control
from weighbridge.endpoints import service as endpoints
from weighbridge.errors import NotFoundError, UnavailableError
from weighbridge.replicas import store as replicas
from weighbridge.replicas.launch import OWNER
from weighbridge.runtimes.base import Resources, Runtime

LOG_TAIL_BYTES = 64 * 1024
LOG_TAIL_BYTES_MAX = 1024 * 1024

router = admin_router()


class ReplicaAnswer(Answer):
    id: str
    endpoint_id: str
    deployment_id: str
    version_id: int
    state: str
    reason: str
    node: str | None
    in_flight: int
    created: int
    ready: int | None


class Replicas(Answer):
    replicas: list[ReplicaAnswer]


class Logs(Answer):
    id: str
    logs: str


class Amounts(Answer):
    cpus: float
    gpus: float
    memory_bytes: int
    custom: dict[str, float]


class Node(Answer):
    name: str
    alive: bool
    total: Amounts
    free: Amounts
    labels: dict[str, str]


class Nodes(Answer):
    nodes: list[Node]


class Gateway(Answer):
    host: str = Field(description="Where it runs; empty beside the process that answers.")
    pid: int
    routes_generation: int
    keys_generation: int


class Status(Answer):
    version: str
    database: str
    runtime: str
    time: int
    gateways: list[Gateway]


@router.get("/replicas", operation_id="list_replicas")
async def list_replicas(
    control: Control, endpoint_id: Annotated[str | None, Query(max_length=200)] = None
) -> Replicas:
    """List the replicas that have not ended, then those that ended last; of one endpoint or all."""
    async with control.database.begin() as tx:
        if endpoint_id is not None:
            await endpoints.get(tx, endpoint_id, org_id=None)
        found = await replicas.listing(tx, endpoint_id)
        acks = await control.gateways.look(tx)
    nodes = await _nodes_by_replica(control.runtime)
    return Replicas(
        replicas=[
            ReplicaAnswer(
                id=replica.id,
                endpoint_id=replica.endpoint_id,
                deployment_id=replica.deployment_id,
                version_id=replica.version_number,
                state=replica.state.value,
                reason=replica.reason,
                node=nodes.get(replica.id),
                # An ended replica's slot may be another's by now.
                in_flight=0 if replica.state.final else acks.in_flight(replica.slot),
                created=unix_s(replica.created_at),
                ready=None if replica.ready_at is None else unix_s(replica.ready_at),
            )
            for replica in found
        ]
    )


async def _nodes_by_replica(runtime: Runtime) -> Mapping[str, str]:
    """Empty while the runtime is away: the list of replicas is still worth having."""
    try:
        return {status.name: status.node for status in await runtime.list(OWNER)}
    except UnavailableError:
        return {}


@router.get("/replicas/{replica_id}/logs", operation_id="get_replica_logs")
async def logs(
    replica_id: str,
    control: Control,
    tail_bytes: Annotated[int, Query(ge=1, le=LOG_TAIL_BYTES_MAX)] = LOG_TAIL_BYTES,
) -> Logs:
    """Retrieve the end of a replica's output, as long as its runtime keeps it."""
    async with control.database.begin() as tx:
        replica = await replicas.find(tx, replica_id)
    if replica is None:
        raise NotFoundError(
            f"Replica {quoted(replica_id)} does not exist.", code="replica_not_found"
        )
    return Logs(id=replica.id, logs=await control.runtime.logs(replica.id, tail_bytes))


@router.get("/nodes", operation_id="list_nodes")
async def nodes(control: Control) -> Nodes:
    """List the machines that replicas run on, and what is free there."""
    return Nodes(
        nodes=[
            Node(
                name=node.name,
                alive=node.alive,
                total=_amounts(node.total),
                free=_amounts(node.free),
                labels=dict(node.labels),
            )
            for node in await control.runtime.capacity()
        ]
    )


def _amounts(resources: Resources) -> Amounts:
    return Amounts(
        cpus=resources.cpus,
        gpus=resources.gpus,
        memory_bytes=resources.memory_bytes,
        custom=dict(resources.custom),
    )


@router.get("/status", operation_id="get_status")
async def status(control: Control) -> Status:
    """Retrieve what the control plane knows of its own parts."""
    async with control.database.begin() as tx:
        acks = await control.gateways.look(tx)
    return Status(
        version=_version(),
        database="ok",
        runtime=await _runtime_word(control.runtime),
        time=unix_s(control.clock.now()),
        gateways=[
            Gateway(
                host=ack.host,
                pid=ack.pid,
                routes_generation=ack.routes_generation,
                keys_generation=ack.keys_generation,
            )
            for ack in acks.workers()
        ],
    )


async def _runtime_word(runtime: Runtime) -> str:
    try:
        await runtime.capacity()
    except UnavailableError:
        return "unavailable"
    return "ok"


def _version() -> str:
    try:
        return version("weighbridge")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"
