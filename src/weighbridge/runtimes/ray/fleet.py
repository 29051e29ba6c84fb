"""The replicas of a cluster as the driver knows them: what it started, what it found, what has ended.

The truth is in the actors; what is lost with the driver is found again, but for the logs of ended replicas.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import msgspec
import ray.exceptions

from weighbridge.errors import UnavailableError
from weighbridge.runtimes.base import (
    PLACED,
    FetchStatus,
    NodeInfo,
    ReplicaSpec,
    ReplicaStatus,
    RuntimeState,
    Spread,
    Weights,
)
from weighbridge.runtimes.ray.actor import decode_status
from weighbridge.runtimes.ray.cluster import Actor, Cluster, incarnation_of
from weighbridge.runtimes.ray.fence.epochs import followed
from weighbridge.runtimes.ray.placement import choose, waiting_words
from weighbridge.runtimes.ray.prefetch.fetches import Fetches, start_fetch
from weighbridge.runtimes.ray.records.entry import Entry, never_started, words_of
from weighbridge.runtimes.ray.wire import AWAY_CODE, NODE_LOST_CODE

Result = TypeVar("Result")

CLUSTER_TIMEOUT_S = 3.0
ANSWERS_WAIT_S = 1.0
"""A list waits so long for replicas to answer; those that did not are not waited for again."""
STOP_TIMEOUT_S = 2.0
LOGS_TIMEOUT_S = 5.0
LAST_WORDS_TIMEOUT_S = 2.0
"""All that have ended are asked side by side, within one call."""
ENDED_LOG_BYTES = 64 * 1024
ENDED_MAX = 200
"""Ended replicas whose last words are kept."""
IDLE_MAX_S = 60.0
"""An actor that an earlier driver made and that nobody has given a replica is ended after this."""
THREADS = 4


class Fleet:
    """Used by one event loop. Every call raises UnavailableError when the cluster does not answer in time.

    `epoch` is that of the caller's lease, 0 where it leads nobody. A caller that another one has followed is refused.
    """

    def __init__(self, cluster: Cluster, monotonic: Callable[[], float]) -> None:
        self._cluster = cluster
        self._monotonic = monotonic
        self._entries: dict[str, Entry] = {}
        self._has_found = False
        self._nodes: Mapping[str, NodeInfo] = {}
        self._lock = asyncio.Lock()
        self._fetches = Fetches(self._start_fetch, monotonic)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="cluster")
        self._stuck: asyncio.Task[None] | None = None

    async def launch(self, spec: ReplicaSpec, epoch: int = 0) -> None:
        async with self._led(epoch):
            alone = spec.placement.spread is Spread.NONE and spec.placement.nodes == 1
            if not alone and not self._has_found:
                await self._find()
            known = self._entries.get(spec.name)
            if known is not None and (known.spec is not None or known.status is not None):
                return
            await self._look_at_nodes()
            choice = choose(
                self._nodes,
                self._members(spec.placement.group),
                spec.resources,
                spec.placement,
                sum(entry.spans for entry in self._entries.values()),
            )
            actor = await self._ask(partial(self._cluster.create, spec, choice))
            text = msgspec.json.encode(spec)
            self._entries[spec.name] = Entry(
                spec.name,
                actor,
                self._monotonic(),
                spec=replace(spec, secrets={}),
                asked=_future(actor.launch.remote(text, epoch)),
                silent=True,  # where there is no room it answers when there is
                node_id=choice.node_id or "",
            )

    async def statuses(
        self, selector: Mapping[str, str], epoch: int = 0
    ) -> Sequence[ReplicaStatus]:
        """Only a caller that leads keeps what it is told: for another one nothing is given back or ended."""
        leads = epoch > 0
        async with self._led(epoch):
            if leads:
                await self._retire_told()
            self._drop_oldest_ended()
            before = list(self._entries.values())
            names = await self._find()
            for entry in before:
                if entry.name not in names and not entry.retired and not entry.ended:
                    entry.status = self._lost(entry)
            await self._look_at_idle(leads=leads)
            shown = [(entry, self._shown(entry)) for entry in self._entries.values()]
            found = [
                (entry, status)
                for entry, status in shown
                if status is not None
                and (not status.labels or selector.items() <= status.labels.items())
            ]
            if leads:
                for entry, status in found:
                    entry.told_end = status.state is RuntimeState.EXITED
            return [status for _, status in found]

    async def stop(self, name: str, grace_s: float, epoch: int = 0) -> None:
        async with self._led(epoch):
            entry = self._entries.get(name)
            if entry is None or entry.ended:
                return
            if not entry.answered and await self._waits(entry.actor):
                await self._ask(partial(self._cluster.kill, entry.actor))
                entry.status = never_started(entry, "stopped before it started")
                entry.retired = True
                return
            self._take(entry, await self._answer(entry.actor.stop.remote(grace_s), STOP_TIMEOUT_S))

    async def forget(self, name: str, epoch: int = 0) -> None:
        async with self._led(epoch):
            entry = self._entries.get(name)
            if entry is not None and entry.ended:
                if not entry.retired:
                    await self._ask(partial(self._cluster.kill, entry.actor))
                del self._entries[name]

    async def logs(self, name: str, tail_bytes: int) -> str:
        entry = self._entries.get(name)
        if entry is None:
            actor = await self._ask(partial(self._cluster.actor, name))
            if actor is None or await self._waits(actor):
                return ""
            return str(await self._answer(actor.logs.remote(tail_bytes), LOGS_TIMEOUT_S))
        if not entry.answered and not entry.retired:
            return entry.trouble
        if not entry.gone:
            try:
                return str(await self._answer(entry.actor.logs.remote(tail_bytes), LOGS_TIMEOUT_S))
            except UnavailableError:
                # The driver of a leader may have given back what an ended replica held.
                if not entry.ended:
                    raise
        return entry.last_words[-tail_bytes:] if tail_bytes > 0 else ""

    async def capacity(self) -> Sequence[NodeInfo]:
        await self._look_at_nodes()
        return sorted(self._nodes.values(), key=lambda node: node.name)

    async def fetch(
        self, weights: Weights, names: Sequence[str], epoch: int = 0
    ) -> Sequence[FetchStatus]:
        """How far the nodes are, of those that live; those that have not begun to pull begin now."""
        async with self._led(epoch):
            await self._look_at_nodes()
            nodes = self._nodes
        return await self._fetches.fetch(weights, names, nodes)

    async def _start_fetch(self, node_id: str) -> Actor:
        return await self._ask(partial(start_fetch, node_id))

    @asynccontextmanager
    async def _led(self, epoch: int) -> AsyncIterator[None]:
        """Alone with the cluster, and by no controller that another one has followed (D5)."""
        async with self._lock:
            if epoch:
                highest = await self._ask(partial(self._cluster.raise_epoch, epoch))
                if highest > epoch:
                    raise followed(self._cluster.namespace, epoch, highest)
            yield

    async def _find(self) -> frozenset[str]:
        """Adopt what others have started, and hear everybody; the names of all actors that have not ended."""
        names = await self._ask(self._cluster.names)
        for name in names - self._entries.keys():
            await self._adopt(name)
        await self._look_at_nodes()
        await self._hear()
        self._has_found = True
        return names

    async def _adopt(self, name: str) -> None:
        actor = await self._ask(partial(self._cluster.actor, name))
        if actor is not None:
            self._entries[name] = Entry(name, actor, self._monotonic())

    async def _hear(self) -> None:
        """Ask every actor how it is, and take the answers that come in time."""
        open_entries = self._open_entries()
        for entry in open_entries:
            if entry.asked is None:
                entry.asked = _future(entry.actor.status.remote())
        awaited = [e.asked for e in open_entries if e.asked is not None and not e.silent]
        if awaited:
            await asyncio.wait(awaited, timeout=ANSWERS_WAIT_S)
        for entry in open_entries:
            if entry.asked is not None and entry.asked.done():
                self._take_answer(entry, entry.asked)
                entry.asked = None
            else:
                entry.silent = True
            if not entry.answered and entry.asked is not None:
                node_id = await self._ask(partial(self._cluster.node_of, entry.actor))
                entry.waits = node_id is None
                if node_id is not None and node_id in self._nodes:
                    entry.node_id = node_id

    def _take_answer(self, entry: Entry, asked: asyncio.Future[bytes]) -> None:
        try:
            text = asked.result()
        except ray.exceptions.RayError as error:
            # Whether it has ended is for the cluster to say; a call may fail without that.
            entry.trouble = words_of(error)
            return
        self._take(entry, text)
        if entry.status is None and entry.spec is not None:
            # Its launch ended before it was asked this, and brought no engine: it may be launched again.
            entry.spec, entry.seen_s = None, self._monotonic()

    def _take(self, entry: Entry, text: bytes) -> None:
        entry.answered, entry.silent, entry.waits = True, False, False
        status = decode_status(text)
        if status is not None:
            entry.status, entry.node_id = status, status.node

    async def _look_at_idle(self, *, leads: bool) -> None:
        """A leader ends those that nobody has given a replica; under any other their time does not begin."""
        now_s = self._monotonic()
        limit_s = now_s - IDLE_MAX_S
        for entry in self._open_entries():
            if not leads:
                entry.seen_s = now_s
            is_idle = entry.spec is None and entry.status is None
            if is_idle and entry.seen_s < limit_s and (entry.answered or entry.waits):
                await self._ask(partial(self._cluster.kill, entry.actor))
                del self._entries[entry.name]

    async def _retire_told(self) -> None:
        """Give back what ended replicas hold, once their end was told: keep what they said last."""
        told = [entry for entry in self._entries.values() if entry.told_end and not entry.retired]
        words = await asyncio.gather(*(self._last_words(entry) for entry in told))
        for entry, last_words in zip(told, words, strict=True):
            entry.last_words = last_words
            await self._ask(partial(self._cluster.kill, entry.actor))
            entry.retired = True

    async def _last_words(self, entry: Entry) -> str:
        try:
            answer = entry.actor.logs.remote(ENDED_LOG_BYTES)
            return str(await self._answer(answer, LAST_WORDS_TIMEOUT_S))
        except UnavailableError as error:
            return error.message

    def _drop_oldest_ended(self) -> None:
        ended = [name for name, entry in self._entries.items() if entry.ended]
        for name in ended[: max(0, len(ended) - ENDED_MAX)]:
            del self._entries[name]

    def _shown(self, entry: Entry) -> ReplicaStatus | None:
        """None for an actor that belongs to no replica yet."""
        if entry.status is not None:
            return replace(entry.status, node=self._node_name(entry.status.node))
        if entry.spec is None and (entry.answered or entry.waits):
            return None
        labels = entry.spec.labels if entry.spec is not None else {}
        state, reason = RuntimeState.RUNNING, None
        if entry.waits and entry.spec is not None:
            state = RuntimeState.PENDING
            reason = waiting_words(self._nodes, entry.spec.resources, entry.spec.placement)
        elif entry.spec is not None and entry.spec.weights.source is not None:
            # Its process comes up, and pulls: the time for its engine's start has not begun.
            state, reason = RuntimeState.FETCHING, PLACED
        incarnation = incarnation_of(entry.actor)
        node = self._node_name(entry.node_id)
        return ReplicaStatus(entry.name, state, labels, incarnation, node, reason=reason)

    def _lost(self, entry: Entry) -> ReplicaStatus:
        node = self._nodes.get(entry.node_id)
        name = self._node_name(entry.node_id)
        if name and (node is None or not node.alive):
            reason = f"its node {name} is lost"
        else:
            reason = entry.trouble or f"its process{f' on node {name}' if name else ''} was ended"
        shown = entry.status or never_started(entry, reason)
        return replace(shown, state=RuntimeState.LOST, url=None, pid=None, reason=reason)

    def _members(self, group: str) -> list[str]:
        """The nodes of its replicas; one that has not said whose it is may be one of them."""
        return [
            entry.node_id
            for entry in self._entries.values()
            if entry.group in (group, None) and not entry.ended
        ]

    def _open_entries(self) -> list[Entry]:
        return [e for e in self._entries.values() if not e.retired and not e.ended]

    def _node_name(self, node_id: str) -> str:
        node = self._nodes.get(node_id)
        return node.name if node is not None else node_id

    async def _waits(self, actor: Actor) -> bool:
        return await self._ask(partial(self._cluster.node_of, actor)) is None

    async def _look_at_nodes(self) -> None:
        """A head that comes back counts its machine as a new node: to the cluster this driver has died with the old
        one, and what it has asked of actors is never answered.
        """
        self._nodes = await self._ask(self._cluster.nodes)
        own = self._nodes.get(self._cluster.node_id)
        if own is None or not own.alive:
            raise UnavailableError(
                "The Ray node of the server's machine has ended; the driver joins through the one that follows it.",
                code=NODE_LOST_CODE,
            )

    async def _ask(self, call: Callable[[], Result]) -> Result:
        """Make a call that may block for as long as the head is away; one that hangs lets no other begin."""
        if self._stuck is not None and not self._stuck.done():
            raise _away("it has not answered an earlier call yet")
        self._stuck = None
        answer = asyncio.get_running_loop().run_in_executor(self._threads, call)
        try:
            async with asyncio.timeout(CLUSTER_TIMEOUT_S):
                return await asyncio.shield(answer)
        except TimeoutError:
            self._stuck = asyncio.create_task(_forgotten(answer))
            raise _away(f"no answer within {CLUSTER_TIMEOUT_S:g} s") from None
        except (ray.exceptions.RayError, RuntimeError) as error:
            raise _away(words_of(error)) from error

    # Any: as in `_future`.
    async def _answer(self, reference: Any, timeout_s: float) -> Any:
        try:
            async with asyncio.timeout(timeout_s):
                return await _future(reference)
        except TimeoutError as error:
            raise UnavailableError(f"The replica did not answer within {timeout_s:g} s.") from error
        except ray.exceptions.RayError as error:
            raise UnavailableError(f"The replica did not answer: {words_of(error)}") from error


# Any: a reference of a library without types, and whatever the actor answers.
def _future(reference: Any) -> asyncio.Future[Any]:
    return asyncio.wrap_future(reference.future())


async def _forgotten(answer: asyncio.Future[Result]) -> None:
    """Ends with it, whatever it is."""
    await asyncio.wait({answer})
    answer.exception()


def _away(reason: str) -> UnavailableError:
    return UnavailableError(f"The Ray cluster's head does not answer: {reason}.", code=AWAY_CODE)
