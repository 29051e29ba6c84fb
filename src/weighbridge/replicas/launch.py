"""What to start for a replica: its engine's command and its place in the weight store."""

import asyncio
from functools import lru_cache

from weighbridge.engines.base import Engine, EngineLaunch, EngineSettings, served_name
from weighbridge.errors import InvalidError
from weighbridge.replicas.store import Watched
from weighbridge.replicas.weights.ways import WeightsOf
from weighbridge.routing.model import SLOTS_MAX
from weighbridge.routing.tokens import replica_token
from weighbridge.runtimes.base import (
    GROUP_LABEL,
    NODES_LABEL,
    Placement,
    ReplicaSpec,
    Resources,
    Spread,
)

OWNER = {"owner": "weighbridge"}
"""The label of every process that is ours to adopt or to stop."""


def engine_launch(watched: Watched, pepper: bytes, cache_dir: str) -> EngineLaunch:
    replica = watched.replica
    return EngineLaunch(
        replica_id=replica.id,
        digest=replica.digest,
        served_name=served_name(replica.id, replica.digest),
        token=_token(pepper, replica.id),
        settings=watched.engine,
        cache_dir=cache_dir,
    )


@lru_cache(maxsize=SLOTS_MAX)
def _token(pepper: bytes, replica_id: str) -> str:
    """Each probe needs it."""
    return replica_token(pepper, replica_id)


async def replica_spec(
    watched: Watched,
    engine: Engine,
    launch: EngineLaunch,
    weights_of: WeightsOf,
    *,
    grace_s: float,
) -> ReplicaSpec:
    """Raises InvalidError when the settings make no command, NotFoundError when the weights are not stored."""
    replica = watched.replica
    weights = await asyncio.to_thread(weights_of, replica.digest, watched.size_bytes)
    if weights.source is not None and watched.engine.nodes > 1:
        raise InvalidError(
            "An engine over several nodes reads its weights at one path on each of them: set "
            "WEIGHBRIDGE_RAY_WEIGHTS=path, with the weight store on a file system that they share.",
            code="weights_path_needed",
        )
    command = engine.command(launch)
    return ReplicaSpec(
        name=replica.id,
        argv=command.argv,
        weights=weights,
        env=command.env,
        secrets=command.secrets,
        labels={
            **OWNER,
            "org": watched.org_id,
            "endpoint": replica.endpoint_id,
            GROUP_LABEL: replica.deployment_id,
            "version": str(replica.version_number),
            **({NODES_LABEL: str(watched.engine.nodes)} if watched.engine.nodes > 1 else {}),
        },
        resources=engine_resources(watched.engine),
        placement=engine_placement(watched.engine, group=replica.deployment_id),
        grace_s=grace_s,
    )


def engine_resources(settings: EngineSettings) -> Resources:
    """What one replica needs of its node."""
    return Resources(
        cpus=float(settings.threads),
        gpus=float(settings.gpus),
        memory_bytes=settings.memory_bytes,
        custom=settings.resources,
    )


def engine_placement(settings: EngineSettings, *, group: str) -> Placement:
    return Placement(settings.node_labels, Spread(settings.spread), group, settings.nodes)
