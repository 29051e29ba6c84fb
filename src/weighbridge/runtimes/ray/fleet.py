"""The replicas of a cluster as the driver knows them: what it started, what it found, what has ended.

The truth is in the actors; what is lost with the driver is found again, but for the logs of ended replicas.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import msgspec
import ray.exceptions

from weighbridge.errors import UnavailableError
from weighbridge.runtimes.base import NodeInfo, ReplicaSpec, ReplicaStatus, RuntimeState
from weighbridge.runtimes.ray.actor import decode_status
from weighbridge.runtimes.ray.cluster import Actor, Cluster, incarnation_of
from weighbridge.runtimes.ray.placement import choose, waiting_words
from weighbridge.runtimes.ray.wire import AWAY_CODE

Result = TypeVar("Result")

CLUSTER_TIMEOUT_S = 3.0
ANSWERS_WAIT_S = 1.0
"""A list waits so long for replicas to answer; those that did not are not waited for again."""
STOP_TIMEOUT_S = 2.0
LOGS_TIMEOUT_S = 5.0
ENDED_LOG_BYTES = 64 * 1024
ENDED_MAX = 200
"""Ended replicas whose last words are kept."""
IDLE_MAX_S = 60.0
"""An actor that an earlier driver made and that nobody has given a replica is ended after this."""
THREADS = 4
ENDED = frozenset({RuntimeState.EXITED, RuntimeState.LOST})


@dataclass(slots=True)
class Entry:
    """One actor. `spec` is kept without its secrets, and only by the driver that launched it."""

    name: str
    actor: Actor
    seen_s: float
    spec: ReplicaSpec | None = None
    status: ReplicaStatus | None = None
    asked: asyncio.Future[bytes] | None = None
    answered: bool = False
    silent: bool = False
    waits: bool = True
    node_id: str = ""
    trouble: str = ""
    told_end: bool = False
    retired: bool = False
    last_words: str = ""

    @property
    def ended(self) -> bool:
        return self.status is not None and self.status.state in ENDED


class Fleet:
    """Used by one event loop. Every call raises UnavailableError when the cluster does not answer in time."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._entries: dict[str, Entry] = {}
        self._nodes: Mapping[str, NodeInfo] = {}
        self._lock = asyncio.Lock()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="cluster")
        self._stuck: asyncio.Task[None] | None = None

    async def launch(self, spec: ReplicaSpec) -> None:
        async with self._lock:
            known = self._entries.get(spec.name)
            if known is not None and (known.spec is not None or known.status is not None):
                return
            await self._look_at_nodes()
            choice = choose(
                self._nodes, self._members(spec.placement.group), spec.resources, spec.placement
            )
            actor = await self._ask(partial(self._cluster.create, spec, choice))
            text = msgspec.json.encode(spec)
            self._entries[spec.name] = Entry(
                spec.name,
                actor,
                time.monotonic(),
                spec=replace(spec, secrets={}),
                asked=_future(actor.launch.remote(text)),
                silent=True,  # where there is no room it answers when there is
                node_id=choice.node_id or "",
            )

    async def statuses(self, selector: Mapping[str, str]) -> Sequence[ReplicaStatus]:
        async with self._lock:
            await self._retire_told()
            before = list(self._entries.values())
            names = await self._ask(self._cluster.names)
            for name in names - self._entries.keys():
                await self._adopt(name)
            await self._look_at_nodes()
            await self._hear()
            for entry in before:
                if entry.name not in names and not entry.retired and not entry.ended:
                    entry.status = self._lost(entry)
            shown = [(entry, self._shown(entry)) for entry in self._entries.values()]
            found = [
                (entry, status)
                for entry, status in shown
                if status is not None
                and (not status.labels or selector.items() <= status.labels.items())
            ]
            for entry, status in found:
                entry.told_end = status.state is RuntimeState.EXITED
            return [status for _, status in found]

    async def stop(self, name: str, grace_s: float) -> None:
        async with self._lock:
            entry = self._entries.get(name)
            if entry is None or entry.ended:
                return
            if not entry.answered and await self._ask(partial(self._cluster.waits, entry.actor)):
                await self._ask(partial(self._cluster.kill, entry.actor))
                entry.status = _never_started(entry, "stopped before it started")
                entry.retired = True
                return
            self._take(entry, await self._answer(entry.actor.stop.remote(grace_s), STOP_TIMEOUT_S))

    async def forget(self, name: str) -> None:
        async with self._lock:
            entry = self._entries.get(name)
            if entry is not None and entry.ended:
                if not entry.retired:
                    await self._ask(partial(self._cluster.kill, entry.actor))
                del self._entries[name]

    async def logs(self, name: str, tail_bytes: int) -> str:
        entry = self._entries.get(name)
        if entry is None or (not entry.answered and not entry.retired):
            return entry.trouble if entry is not None else ""
        if entry.retired or entry.ended:
            return entry.last_words[-tail_bytes:] if tail_bytes > 0 else ""
        return str(await self._answer(entry.actor.logs.remote(tail_bytes), LOGS_TIMEOUT_S))

    async def capacity(self) -> Sequence[NodeInfo]:
        await self._look_at_nodes()
        return sorted(self._nodes.values(), key=lambda node: node.name)

    async def _adopt(self, name: str) -> None:
        actor = await self._ask(partial(self._cluster.actor, name))
        if actor is not None:
            self._entries[name] = Entry(name, actor, time.monotonic())

    async def _hear(self) -> None:
        """Ask every actor how it is, and take the answers that come in time."""
        open_entries = [e for e in self._entries.values() if not e.retired and not e.ended]
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
                entry.waits = await self._ask(partial(self._cluster.waits, entry.actor))
        await self._end_idle(open_entries)

    def _take_answer(self, entry: Entry, asked: asyncio.Future[bytes]) -> None:
        try:
            text = asked.result()
        except ray.exceptions.RayError as error:
            # Whether it has ended is for the cluster to say; a call may fail without that.
            entry.trouble = str(error).strip().partition("\n")[0]
            return
        self._take(entry, text)

    def _take(self, entry: Entry, text: bytes) -> None:
        entry.answered, entry.silent, entry.waits = True, False, False
        status = decode_status(text)
        if status is not None:
            entry.status, entry.node_id = status, status.node

    async def _end_idle(self, entries: Sequence[Entry]) -> None:
        limit_s = time.monotonic() - IDLE_MAX_S
        for entry in entries:
            is_idle = entry.spec is None and entry.status is None
            if is_idle and entry.seen_s < limit_s and (entry.answered or entry.waits):
                await self._ask(partial(self._cluster.kill, entry.actor))
                del self._entries[entry.name]

    async def _retire_told(self) -> None:
        """Give back what ended replicas hold, once their end was told: keep what they said last."""
        for entry in list(self._entries.values()):
            if not entry.told_end or entry.retired:
                continue
            try:
                answer = entry.actor.logs.remote(ENDED_LOG_BYTES)
                entry.last_words = await self._answer(answer, LOGS_TIMEOUT_S)
            except UnavailableError as error:
                entry.last_words = error.message
            await self._ask(partial(self._cluster.kill, entry.actor))
            entry.retired = True
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
        incarnation = incarnation_of(entry.actor)
        node = self._node_name(entry.node_id)
        return ReplicaStatus(entry.name, state, labels, incarnation, node, reason=reason)

    def _lost(self, entry: Entry) -> ReplicaStatus:
        node = self._nodes.get(entry.node_id)
        if node is None or not node.alive:
            name = self._node_name(entry.node_id)
            reason = f"its node {name} is lost" if name else "its node is lost"
        else:
            reason = entry.trouble or f"its process on node {node.name} was ended"
        shown = entry.status or _never_started(entry, reason)
        return replace(shown, state=RuntimeState.LOST, url=None, pid=None, reason=reason)

    def _members(self, group: str) -> list[str]:
        return [
            entry.node_id
            for entry in self._entries.values()
            if entry.spec is not None and entry.spec.placement.group == group and not entry.ended
        ]

    def _node_name(self, node_id: str) -> str:
        node = self._nodes.get(node_id)
        return node.name if node is not None else node_id

    async def _look_at_nodes(self) -> None:
        self._nodes = await self._ask(self._cluster.nodes)

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
            raise _away(str(error).strip().partition("\n")[0]) from error

    # Any: as in `_future`.
    async def _answer(self, reference: Any, timeout_s: float) -> Any:
        try:
            async with asyncio.timeout(timeout_s):
                return await _future(reference)
        except TimeoutError as error:
            raise UnavailableError(f"The replica did not answer within {timeout_s:g} s.") from error
        except ray.exceptions.RayError as error:
            words = str(error).strip().partition("\n")[0]
            raise UnavailableError(f"The replica did not answer: {words}") from error


# Any: a reference of a library without types, and whatever the actor answers.
def _future(reference: Any) -> asyncio.Future[Any]:
    return asyncio.wrap_future(reference.future())


def _never_started(entry: Entry, reason: str) -> ReplicaStatus:
    return ReplicaStatus(
        entry.name,
        RuntimeState.EXITED,
        entry.spec.labels if entry.spec is not None else {},
        incarnation_of(entry.actor),
        "",
        reason=reason,
    )


async def _forgotten(answer: asyncio.Future[Result]) -> None:
    """Ends with it, whatever it is."""
    await asyncio.wait({answer})
    answer.exception()


def _away(reason: str) -> UnavailableError:
    return UnavailableError(f"The Ray cluster's head does not answer: {reason}.", code=AWAY_CODE)
