"""Whether any node could ever run what is deployed: asked before a rollout waits for a place that cannot come."""

from collections.abc import Sequence

from weighbridge.api.deps import Parts
from weighbridge.endpoints import service as endpoints
from weighbridge.errors import ConflictError, UnavailableError
from weighbridge.registry import service as registry
from weighbridge.replicas.launch import engine_placement, engine_resources
from weighbridge.runtimes.base import NodeInfo
from weighbridge.runtimes.fit import obstacle
from weighbridge.storage.database import Transaction


async def nodes_now(control: Parts) -> Sequence[NodeInfo]:
    """Empty where nothing can be said: the runtime is away, or its cluster adds nodes by itself."""
    if control.settings.ray_grows:
        return ()
    try:
        return await control.runtime.capacity()
    except UnavailableError:
        return ()


async def check_room(
    tx: Transaction, nodes: Sequence[NodeInfo], endpoint_id: str, *, org_id: str
) -> None:
    """ConflictError when no living node could hold a replica of the endpoint's architecture, were all else gone."""
    if not nodes:
        return
    endpoint = await endpoints.get(tx, endpoint_id, org_id=org_id)
    engine = (await registry.architecture(tx, endpoint.arch_id)).engine
    words = obstacle(nodes, engine_resources(engine), engine_placement(engine, group=""))
    if words is not None:
        raise ConflictError(
            f"No rollout of {endpoint.arch_id} can ever succeed here now: {words}. "
            "Add such a node, or ask the operator to change the architecture's engine settings.",
            code="does_not_fit",
        )
