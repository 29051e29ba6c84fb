"""Brings a rollout's weights to the nodes whose replicas it will replace, before the first of them is drained.

Nothing of it is kept: what the nodes have is on their disks, and after a restart they are asked again.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from weighbridge.control.wake import Wake
from weighbridge.errors import NotFoundError, UnavailableError
from weighbridge.replicas.launch import OWNER
from weighbridge.replicas.weights.ways import WeightsOf
from weighbridge.runtimes.base import FetchStatus, ReplicaStatus, Weights
from weighbridge.weights.manifest import Manifest

log = structlog.get_logger()

LOOK_S = 1.0
IDLE_S = 5.0
ASKED_MAX_S = 30.0
"""A rollout that has not asked for so long needs nothing any more."""
ON_THEIR_WAY = "weights on their way"


class FetchingRuntime(Protocol):
    """Raises UnavailableError when the runtime is away."""

    async def list(self, selector: dict[str, str]) -> Sequence[ReplicaStatus]: ...

    async def fetch(self, weights: Weights, nodes: Sequence[str]) -> Sequence[FetchStatus]:
        """How far the nodes are, of those that live; they begin with the first call."""


@dataclass(frozen=True, slots=True)
class Wish:
    """`over` once every node has it, or will not get it."""

    digest: str
    replica_ids: frozenset[str]
    asked_s: float
    nodes: tuple[str, ...] | None = None
    words: str = ON_THEIR_WAY
    over: bool = False


class Prefetcher:
    """Rollouts ask it in memory; `reconcile` asks the runtime."""

    def __init__(
        self,
        runtime: FetchingRuntime,
        weights_of: WeightsOf,
        manifest: Callable[[str], Manifest],
        *,
        monotonic: Callable[[], float],
        wake: Wake,
    ) -> None:
        self._runtime = runtime
        self._weights_of = weights_of
        self._manifest = manifest
        self._monotonic = monotonic
        self._wake = wake
        self._wishes: dict[str, Wish] = {}

    def fetching(self, deployment_id: str, digest: str, replica_ids: Collection[str]) -> str:
        """What is still on its way to the nodes of these replicas, in words; empty when nothing is waited for."""
        now_s = self._monotonic()
        wish = self._wishes.get(deployment_id)
        if wish is None:
            if not replica_ids:
                return ""
            wish = Wish(digest, frozenset(replica_ids), now_s)
            self._wake("prefetch")
        self._wishes[deployment_id] = replace(wish, asked_s=now_s)
        return "" if wish.over else wish.words

    async def reconcile(self) -> float:
        now_s = self._monotonic()
        self._wishes = {
            name: wish for name, wish in self._wishes.items() if now_s < wish.asked_s + ASKED_MAX_S
        }
        for deployment_id, wish in list(self._wishes.items()):
            if not wish.over:
                await self._look(deployment_id, wish)
        return LOOK_S if any(not wish.over for wish in self._wishes.values()) else IDLE_S

    async def _look(self, deployment_id: str, wish: Wish) -> None:
        try:
            wish = await self._placed(deployment_id, wish)
            statuses = await self._ask(wish)
        except UnavailableError as error:
            words, over = f"{ON_THEIR_WAY}: {error.message}", False
        except NotFoundError:
            words, over = "", True  # its replicas will say so
        else:
            words = "; ".join(f"{one.node} {one.words}" for one in statuses if not one.done)
            words, over = f"{ON_THEIR_WAY}: {words}", all(one.done for one in statuses)
            for failed in (one for one in statuses if one.done and one.words):
                log.warning("weights.prefetch_failed", node=failed.node, reason=failed.words)
        known = self._wishes.get(deployment_id, wish)
        self._wishes[deployment_id] = replace(known, words=words, over=over)
        if over:
            log.info("weights.prefetched", deployment_id=deployment_id)
            self._wake("rollouts")

    async def _placed(self, deployment_id: str, wish: Wish) -> Wish:
        """With the nodes of its replicas, which do not move."""
        if wish.nodes is None:
            listed = await self._runtime.list(OWNER)
            nodes = {one.node for one in listed if one.name in wish.replica_ids and one.node}
            known = self._wishes.get(deployment_id, wish)
            wish = self._wishes[deployment_id] = replace(known, nodes=tuple(sorted(nodes)))
        return wish

    async def _ask(self, wish: Wish) -> Sequence[FetchStatus]:
        if not wish.nodes:
            return []
        size = (await asyncio.to_thread(self._manifest, wish.digest)).size_bytes
        weights = await asyncio.to_thread(self._weights_of, wish.digest, size)
        return await self._runtime.fetch(weights, wish.nodes)
