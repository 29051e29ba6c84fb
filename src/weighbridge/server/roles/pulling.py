"""How a control process lets the nodes of a cluster pull weights; nothing of it where replicas load from a path."""

from collections.abc import Callable

from weighbridge.api.deps import Parts
from weighbridge.control.wake import Wake
from weighbridge.replicas.weights.prefetch import Prefetcher
from weighbridge.replicas.weights.ways import WeightsOf, pulled, sources
from weighbridge.rollouts.reconciler import (
    RolloutReconciler,
    nothing_fetched,
    rollout_limits,
)
from weighbridge.runtimes.base import NODE_CACHE
from weighbridge.runtimes.ray.runtime import RayRuntime
from weighbridge.settings import Settings
from weighbridge.storage.lease import Lease


def weights_of(parts: Parts) -> WeightsOf | None:
    """None where replicas load from where this process has a version."""
    if not parts.settings.nodes_pull:
        return None

    def wall_s() -> float:
        return parts.clock.now().timestamp()

    return pulled(parts.store.manifest, sources(parts.settings, parts.pepper, wall_s))


def cache_dir_of(settings: Settings) -> str | None:
    """Where engines keep what they make of weights; None for this server's own."""
    return NODE_CACHE if settings.nodes_pull else None


def prefetcher_of(parts: Parts, wake: Wake) -> Prefetcher | None:
    """None where nothing is pulled."""
    told, runtime = weights_of(parts), parts.runtime
    if told is None or not isinstance(runtime, RayRuntime):
        return None
    return Prefetcher(
        runtime, told, parts.store.manifest, monotonic=parts.clock.monotonic, wake=wake
    )


def rollouts_of(
    parts: Parts, wake: Wake, lease_of: Callable[[], Lease], prefetcher: Prefetcher | None
) -> RolloutReconciler:
    """Rollouts that wait for what is fetched ahead."""
    return RolloutReconciler(
        parts.database,
        parts.clock,
        wake,
        lease_of,
        limits=rollout_limits(parts.settings),
        fetching=nothing_fetched if prefetcher is None else prefetcher.fetching,
    )
