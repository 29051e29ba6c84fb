"""The driver's part of prefetches: an actor on each node that is asked for, until it has ended."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import ray
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from weighbridge.runtimes.base import FetchStatus, NodeInfo, Weights
from weighbridge.runtimes.ray.prefetch.actor import FetchActor, decode_fetch
from weighbridge.runtimes.ray.records.entry import words_of

# Any: handles and references of a library without types.
Actor = Any

ANSWER_S = 1.0
"""A call waits so long for actors to answer; one that did not says so in a later call."""
ASKED_MAX_S = 60.0
"""What nobody has asked for in this time is forgotten; what has ended on all nodes that were asked, at once.

Either is looked at anew when somebody asks: a node may have removed the version meanwhile."""


@dataclass(slots=True)
class Fetching:
    actor: Actor
    status: FetchStatus
    asked_s: float
    asked: asyncio.Future[bytes] | None = None


class Fetches:
    """Used by one event loop. `start` makes an idle actor on the node of that id."""

    def __init__(
        self, start: Callable[[str], Awaitable[Actor]], monotonic: Callable[[], float]
    ) -> None:
        self._start = start
        self._monotonic = monotonic
        self._known: dict[tuple[str, str], Fetching] = {}

    async def fetch(
        self, weights: Weights, names: Sequence[str], nodes: Mapping[str, NodeInfo]
    ) -> Sequence[FetchStatus]:
        """How far each node is that lives; those that have not begun begin now."""
        limit_s = self._monotonic() - ASKED_MAX_S
        self._known = {key: one for key, one in self._known.items() if one.asked_s > limit_s}
        ids = {node.name: node_id for node_id, node in nodes.items() if node.alive}
        found = {name: await self._of(weights, name, ids[name]) for name in names if name in ids}
        text = msgspec.json.encode(weights)
        for one in found.values():
            if one.asked is None and not one.status.done:
                one.asked = asyncio.wrap_future(one.actor.fetch.remote(text).future())
        if waiting := [one.asked for one in found.values() if one.asked is not None]:
            await asyncio.wait(waiting, timeout=ANSWER_S)
        for one in found.values():
            self._take(one)
        statuses = [one.status for one in found.values()]
        if all(status.done for status in statuses):
            for name in found:
                self._known.pop((weights.digest, ids[name]), None)
        return statuses

    async def _of(self, weights: Weights, name: str, node_id: str) -> Fetching:
        key = (weights.digest, node_id)
        one = self._known.get(key)
        if one is None:
            status = FetchStatus(name, done=False, words="")
            one = Fetching(await self._start(node_id), status, self._monotonic())
        one.asked_s = self._monotonic()
        self._known[key] = one
        return one

    def _take(self, one: Fetching) -> None:
        if one.asked is None or not one.asked.done():
            return
        try:
            told = decode_fetch(one.asked.result())
        except ray.exceptions.RayError as error:
            told = FetchStatus("", done=True, words=words_of(error))
        one.asked = None
        one.status = replace(told, node=one.status.node)
        if told.done:
            one.actor = None  # nobody has it any more, so Ray ends it


def start_fetch(node_id: str) -> Actor:
    """It takes nothing of what the node offers to replicas."""
    on_node = NodeAffinitySchedulingStrategy(node_id, soft=False)
    kind = ray.remote(FetchActor).options(
        num_cpus=0, max_restarts=0, max_concurrency=2, scheduling_strategy=on_node
    )
    return kind.remote()
