"""The replicas of one machine: records of them, who may start, the end of each; no sockets."""

import asyncio
import os
import random
import sys
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog

from weighbridge.clock import Clock
from weighbridge.errors import (
    InvalidError,
    LimitError,
    UnavailableError,
    WeighbridgeError,
)
from weighbridge.runtimes.base import (
    NODE_CACHE,
    PLACED,
    NodeInfo,
    ReplicaSpec,
    ReplicaStatus,
    Resources,
    RuntimeState,
    Weights,
)
from weighbridge.runtimes.incarnation import (
    ENGINE_ROLE,
    SHIM_ROLE,
    EngineStart,
    EngineStartError,
    Incarnation,
    engine_start,
    sweep,
    tree_of,
)
from weighbridge.runtimes.machine.ports import Ports
from weighbridge.runtimes.processes import Mark, find_marked
from weighbridge.runtimes.slots import Room, Waiting, admit
from weighbridge.weights.node.pull import Pull
from weighbridge.weights.node.puller import NodePuller
from weighbridge.weights.node.source import StoppedError

log = structlog.get_logger()

HOST = "127.0.0.1"
ENDED_RECORDS_MAX = 1_000
WAITING_MAX = 1_000
LOGS_KEPT_MAX = 20
"""Logs of forgotten replicas that stay for the reader of a post-mortem."""
LEFTOVER_WAIT_S = 3_600.0
LEFTOVER_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Place:
    """The machine as an operator described it, and where its files go.

    Engines listen on `host`. Where several processes give out the ports of one machine, each locks
    the port that it gives, by a file in `ports_dir`. `of_cluster`: its engines can reach other nodes.
    """

    node: str
    run_dir: Path
    logs_dir: Path
    room: Room
    host: str = HOST
    ports_dir: Path | None = None
    of_cluster: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    spec: ReplicaSpec
    incarnation: str
    state: RuntimeState = RuntimeState.PENDING
    started: bool = False
    devices: tuple[str, ...] = ()
    port: int | None = None
    pid: int | None = None
    exit_code: int | None = None
    reason: str | None = None
    started_at_unix_s: float | None = None
    stop_grace_s: float | None = None

    @property
    def is_held(self) -> bool:
        """Its slot, port and devices are given to nobody else (R19)."""
        return self.started and self.state is not RuntimeState.EXITED


@dataclass(slots=True)
class Node:
    """Owns every record and every lifeline of this machine; used by one event loop."""

    place: Place
    puller: NodePuller | None = None
    """Brings weights to this node; None where every version lies on a path that it has."""
    clock: Clock = field(default_factory=Clock)
    chance: random.Random = field(default_factory=random.Random)
    _records: dict[str, Record] = field(default_factory=dict)
    _lives: dict[str, Incarnation] = field(default_factory=dict)
    _pulls: dict[str, Pull] = field(default_factory=dict)
    _tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _ports: Ports = field(init=False)
    _closing: bool = False

    def __post_init__(self) -> None:
        self._ports = Ports(self.place.host, self.place.ports_dir, self.chance)

    def adopt_leftovers(self) -> None:
        """Replicas of an agent that was killed hold their slots until they are dead (R19, D4)."""
        for process in find_marked(self.place.run_dir):
            mark = process.mark
            if mark.role in (SHIM_ROLE, ENGINE_ROLE) and mark.name not in self._records:
                spec = _leftover_spec(mark)
                self._records[mark.name] = Record(
                    spec,
                    mark.incarnation,
                    RuntimeState.STOPPING,
                    started=True,
                    reason="its node agent died; it is being stopped",
                )
                self._own(mark.name, self._end_leftover(mark))

    def launch(self, spec: ReplicaSpec) -> None:
        """Raises InvalidError, LimitError or UnavailableError; a known name is left as it is."""
        if spec.name in self._records:
            return
        if spec.placement.nodes > 1 and not self.place.of_cluster:
            raise InvalidError(
                f"replica {spec.name} spans {spec.placement.nodes} nodes; node {self.place.node} is of no cluster"
            )
        if self._closing:
            raise UnavailableError(f"node {self.place.node} is shutting down")
        waiting = [r for r in self._records.values() if r.state is RuntimeState.PENDING]
        if len(waiting) >= WAITING_MAX:
            raise LimitError(f"{WAITING_MAX} replicas wait on node {self.place.node} already")
        self._records[spec.name] = Record(spec, self.clock.new_short_id())
        self._admit()

    def statuses(self, selector: Mapping[str, str]) -> list[ReplicaStatus]:
        return [
            self._status(record)
            for record in self._records.values()
            if selector.items() <= record.spec.labels.items()
        ]

    def stop(self, name: str, grace_s: float) -> None:
        record = self._records.get(name)
        if record is None or record.state is RuntimeState.EXITED:
            return
        if not record.started:
            self._end(name, None, "stopped before it started")
            return
        self._put(replace(record, state=RuntimeState.STOPPING, stop_grace_s=grace_s))
        if name in self._pulls:
            self._pulls[name].stop()
        if name in self._lives:
            self._lives[name].stop(grace_s)
            log.info("replica.stopping", replica=name, grace_s=grace_s)

    def forget(self, name: str) -> None:
        record = self._records.get(name)
        if record and record.state is RuntimeState.EXITED:
            del self._records[name]
            self._prune_logs()

    def logs(self, name: str, tail_bytes: int) -> str:
        record = self._records.get(name)
        if record is None:
            return ""
        newest = self._log_path(record)
        text = b""
        for path in (newest, newest.with_name(newest.name + ".1")):
            text = _tail(path, tail_bytes - len(text)) + text
        return text.decode(errors="replace")

    def capacity(self) -> NodeInfo:
        room = self.place.room
        held = [r for r in self._records.values() if r.is_held]
        cpus = float(os.cpu_count() or 1)
        memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        used = sum(r.spec.resources.cpus for r in held)
        declared_bytes = sum(r.spec.resources.memory_bytes for r in held)
        devices_used = sum(len(r.devices) for r in held)
        return NodeInfo(
            self.place.node,
            alive=not self._closing,
            total=Resources(cpus, len(room.devices), memory_bytes, {"slots": room.slots}),
            free=Resources(
                max(0.0, cpus - used),
                len(room.devices) - devices_used,
                max(0, memory_bytes - declared_bytes),
                {"slots": max(0, room.slots - len(held))},
            ),
        )

    async def close(self) -> None:
        """Stop every replica with its own grace and wait until all are dead."""
        self._closing = True
        for record in list(self._records.values()):
            self.stop(record.spec.name, record.spec.grace_s)
        while self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    def _admit(self) -> None:
        records = list(self._records.values())
        waiting = [r for r in records if r.state is RuntimeState.PENDING and not r.started]
        admission = admit(
            self.place.room,
            [r.devices for r in records if r.is_held],
            [Waiting(r.spec.name, r.spec.resources.gpus) for r in waiting],
        )
        for name, reason in admission.reason_by_name.items():
            self._put(replace(self._records[name], reason=reason))
        for name, devices in admission.devices_by_name.items():
            record = self._records[name]
            self._put(replace(record, started=True, devices=devices, reason=PLACED))
            self._own(name, self._live(name))

    def _own(self, name: str, life: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(life, name=f"replica {name}")
        self._tasks[name] = task
        task.add_done_callback(lambda done: self._disown(name, done))

    def _disown(self, name: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(name) is task:  # a forgotten name may have been launched again already
            del self._tasks[name]
        if not task.cancelled() and (error := task.exception()):
            # Its record stays as it is: a slot whose tree is not confirmed dead is not given away.
            log.error("replica.lost_track", replica=name, error=repr(error))

    async def _live(self, name: str) -> None:
        """One incarnation from its start to the confirmed end of its tree."""
        record = self._records[name]
        try:
            model = await self._model_dir(record)
            held = {r.port for r in self._records.values() if r.is_held}
            port = self._ports.pick(held)
            start = self._engine_start(record, model, port)
            life = await Incarnation.start(self._mark(record), start)
        except StoppedError:
            self._end(name, None, "stopped before it started")
            return
        except WeighbridgeError as error:
            self._end(name, None, f"could not start: {error.message} ({error.code})")
            return
        except (OSError, EngineStartError) as error:
            self._end(name, None, f"could not start: {error}")
            return
        self._lives[name] = life
        stop_grace_s = self._records[name].stop_grace_s
        self._put(
            replace(
                self._records[name],
                spec=_without_secrets(record.spec),  # what is not kept cannot leak
                state=RuntimeState.RUNNING if stop_grace_s is None else RuntimeState.STOPPING,
                port=port,
                pid=life.pid,
                reason=None,
                started_at_unix_s=self.clock.now().timestamp(),
            )
        )
        log.info("replica.started", replica=name, pid=life.pid, port=port)
        if stop_grace_s is not None:
            life.stop(stop_grace_s)
        ending = await life.ended()
        del self._lives[name]
        self._end(name, ending.exit_code, ending.reason)

    async def _end_leftover(self, mark: Mark) -> None:
        """Its shim stops it; without a shim, or with one that hangs, it is killed."""
        began_s = self.clock.monotonic()
        while tree_of(mark, SHIM_ROLE):
            grace_s = self._records[mark.name].stop_grace_s
            limit_s = LEFTOVER_WAIT_S if grace_s is None else grace_s
            if self.clock.monotonic() - began_s >= limit_s:
                break
            await asyncio.sleep(LEFTOVER_POLL_S)
        await sweep(mark)
        self._end(mark.name, None, "its node agent died, so it was stopped")

    def _end(self, name: str, exit_code: int | None, reason: str) -> None:
        record = self._records[name]
        self._put(replace(record, state=RuntimeState.EXITED, exit_code=exit_code, reason=reason))
        if self.puller is not None:
            self.puller.release(record.spec.weights.digest)
        log.info("replica.exited", replica=name, exit_code=exit_code, reason=reason)
        ended = [n for n, r in self._records.items() if r.state is RuntimeState.EXITED]
        for oldest in ended[: max(0, len(ended) - ENDED_RECORDS_MAX)]:
            del self._records[oldest]
        if not self._closing:
            self._admit()

    def _put(self, record: Record) -> None:
        self._records[record.spec.name] = record

    def _status(self, record: Record) -> ReplicaStatus:
        is_running = record.state in (RuntimeState.RUNNING, RuntimeState.STOPPING)
        pull = self._pulls.get(record.spec.name)
        return ReplicaStatus(
            name=record.spec.name,
            state=record.state,
            labels=record.spec.labels,
            incarnation=record.incarnation,
            node=self.place.node,
            url=f"http://{self.place.host}:{record.port}" if record.port and is_running else None,
            pid=record.pid if is_running else None,
            exit_code=record.exit_code,
            reason=record.reason if pull is None else pull.words(),
            started_at_unix_s=record.started_at_unix_s,
        )

    def _engine_start(self, record: Record, model: str, port: int) -> EngineStart:
        values = {
            "{model}": model,
            "{host}": self.place.host,
            "{port}": str(port),
            "{python}": sys.executable,
            NODE_CACHE: "" if self.puller is None else str(self.puller.cache_dir),
        }
        devices = {"CUDA_VISIBLE_DEVICES": ",".join(record.devices)}
        self.place.logs_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        return engine_start(
            record.spec, values, devices if self.place.room.devices else {}, self._log_path(record)
        )

    async def _model_dir(self, record: Record) -> str:
        """The version's directory; pulled to this node first, where it does not lie on a path that all nodes have."""
        weights = record.spec.weights
        if weights.source is None:
            return weights.path
        if self.puller is None:
            raise InvalidError("this node agent pulls no weights", code="weights_no_puller")
        pull = Pull(weights.digest, weights.size_bytes, weights.source)
        self._pulls[record.spec.name] = pull
        if self._records[record.spec.name].state is RuntimeState.STOPPING:
            pull.stop()
        else:
            self._put(replace(record, state=RuntimeState.FETCHING))
        try:
            return str(await asyncio.to_thread(self.puller.bring, pull))
        finally:
            del self._pulls[record.spec.name]

    def _mark(self, record: Record) -> Mark:
        home = str(self.place.run_dir)
        spec = record.spec
        return Mark(home, ENGINE_ROLE, spec.name, record.incarnation, spec.labels)

    def _log_path(self, record: Record) -> Path:
        return self.place.logs_dir / f"{record.spec.name}.{record.incarnation}.log"

    def _prune_logs(self) -> None:
        known = {self._log_path(record) for record in self._records.values()}
        logs = [p for p in self.place.logs_dir.glob("*.log") if p not in known]
        logs.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        for path in logs[LOGS_KEPT_MAX:]:
            path.unlink(missing_ok=True)
            path.with_name(path.name + ".1").unlink(missing_ok=True)


def _without_secrets(spec: ReplicaSpec) -> ReplicaSpec:
    return replace(spec, secrets={}, weights=replace(spec.weights, source=None))


def _leftover_spec(mark: Mark) -> ReplicaSpec:
    nothing = Weights(digest="", path="", size_bytes=0)
    return ReplicaSpec(mark.name, argv=(), weights=nothing, labels=mark.labels)


def _tail(path: Path, size_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - max(0, size_bytes))
            file.seek(start)
            return file.read(max(0, size_bytes))
    except FileNotFoundError:
        return b""
