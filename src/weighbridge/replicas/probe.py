"""Probes of running replicas: when one is due, and the tasks that make them without holding a pass up."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import structlog

from weighbridge.control.wake import Wake
from weighbridge.engines.base import Engine, EngineLaunch, ProbeOutcome
from weighbridge.replicas.model import Replica, ReplicaLimits, ReplicaState
from weighbridge.replicas.plan import Probe

log = structlog.get_logger()

PROBES_PARALLEL_MAX = 32
"""Probes at once; the others wait in a line, replicas on their way up or in doubt before those that serve."""


@dataclass(frozen=True, slots=True)
class Asked:
    """When a replica was last probed, and last made to generate, on the monotonic clock."""

    at_s: float
    generated_s: float


@dataclass(frozen=True, slots=True)
class Question:
    """`url` must still be the process of this `incarnation` when the answer is used."""

    replica_id: str
    incarnation: str
    url: str
    launch: EngineLaunch
    generate: bool
    timeout_s: float
    expected: ProbeOutcome | None
    """The answer that changes nothing, and so need not wake anybody."""


def due(
    replica: Replica,
    asked: Asked | None,
    now_s: float,
    limits: ReplicaLimits,
    *,
    in_flight: int,
    guarded: bool,
) -> bool | None:
    """Whether the probe that is due now must generate; None when none is due."""
    ready = replica.state is ReplicaState.READY
    if not ready and replica.state not in (ReplicaState.STARTING, ReplicaState.WARMING):
        return None
    period_s = limits.probe_period_s if ready else limits.probe_start_period_s
    if asked is not None and now_s < asked.at_s + period_s:
        return None
    if not ready:
        return replica.state is ReplicaState.WARMING and replica.probe_passes == 0
    if replica.probe_failures:
        return guarded and replica.probe_failures >= limits.probe_failures_max - 1
    # With requests in flight the engine is at work anyway, and a probe would queue behind them.
    idle = asked is None or now_s >= asked.generated_s + limits.probe_generate_s
    return idle and in_flight == 0


class Prober:
    """Owns the probe tasks; a probe takes as long as it takes while passes go on."""

    def __init__(self, monotonic: Callable[[], float], wake: Wake) -> None:
        self._monotonic = monotonic
        self._wake = wake
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._line: OrderedDict[str, tuple[Engine, Question]] = OrderedDict()
        self._answers: dict[str, tuple[str, Probe]] = {}
        self._asked: dict[str, Asked] = {}

    def asked(self, replica_id: str) -> Asked | None:
        return self._asked.get(replica_id)

    def free(self, replica_id: str) -> bool:
        """Whether this replica may be asked: no probe of it runs or is in line, and no answer waits."""
        return not any(replica_id in one for one in (self._tasks, self._line, self._answers))

    def ask(self, engine: Engine, question: Question) -> None:
        now_s = self._monotonic()
        before = self._asked.get(question.replica_id)
        generated_s = now_s if question.generate or before is None else before.generated_s
        self._asked[question.replica_id] = Asked(now_s, generated_s)
        self._line[question.replica_id] = (engine, question)
        if question.expected is not ProbeOutcome.READY:
            self._line.move_to_end(question.replica_id, last=False)
        self._begin()

    def take(self, replica_id: str, incarnation: str | None) -> Probe | None:
        """The answer that waits, once; one of an earlier process counts for nothing."""
        asked_of, probe = self._answers.pop(replica_id, (None, None))
        return probe if asked_of == incarnation else None

    def keep(self, replica_ids: Iterable[str]) -> None:
        """Drop everything about other replicas."""
        kept = set(replica_ids)
        for replica_id in [one for one in self._asked if one not in kept]:
            del self._asked[replica_id]
            self._line.pop(replica_id, None)
            self._answers.pop(replica_id, None)
            if task := self._tasks.get(replica_id):
                task.cancel()

    async def close(self) -> None:
        self._line.clear()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self) -> None:
        while self._line and len(self._tasks) < PROBES_PARALLEL_MAX:
            replica_id, (engine, question) = self._line.popitem(last=False)
            task = asyncio.get_running_loop().create_task(
                self._probe(engine, question), name=f"probe {replica_id}"
            )
            self._tasks[replica_id] = task
            task.add_done_callback(partial(self._finish, question))

    async def _probe(self, engine: Engine, question: Question) -> None:
        try:
            async with asyncio.timeout(question.timeout_s):
                result = await engine.probe(
                    question.url, question.launch, generate=question.generate
                )
            probe = Probe(result.outcome, result.detail, question.generate)
        except TimeoutError:
            detail = f"no answer within {question.timeout_s:g} s"
            probe = Probe(ProbeOutcome.UNHEALTHY, detail, question.generate)
        self._answers[question.replica_id] = (question.incarnation, probe)
        if probe.outcome is not question.expected:
            self._wake("replicas")

    def _finish(self, question: Question, task: asyncio.Task[None]) -> None:
        del self._tasks[question.replica_id]
        if question.replica_id not in self._asked:
            self._answers.pop(question.replica_id, None)
        self._begin()
        if not task.cancelled() and (error := task.exception()):
            log.error("replica.probe_broke", replica_id=question.replica_id, error=repr(error))
