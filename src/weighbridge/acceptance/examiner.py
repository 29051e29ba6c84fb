"""Exams of new replicas: the tasks that put every probe's question, and what they have shown."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import aiohttp
import structlog

from weighbridge.acceptance.asking import AskError, Target, ask
from weighbridge.acceptance.judge import (
    drift,
    drift_failure,
    failure_text,
    plain_failures,
)
from weighbridge.acceptance.judging import Case, judge
from weighbridge.acceptance.model import (
    EXAM_S,
    EXAM_TRIES_MAX,
    Answer,
    Failure,
    Probe,
    ReferenceToken,
    Result,
    Verdict,
)
from weighbridge.telemetry.logs import redact

log = structlog.get_logger()

EXAMS_PARALLEL_MAX = 8
PAUSE_S = 5.0
"""Before an exam that broke off is tried again."""
CAUSE_CHARS_MAX = 200


@dataclass(frozen=True, slots=True)
class Exam:
    """What a replica must answer; `base` is a serving replica of the base version, if one is there."""

    probes: Sequence[Probe]
    base: Target | None = None


async def examine(session: aiohttp.ClientSession, target: Target, exam: Exam) -> list[Result]:
    """Put the questions one after another; every probe has a result. Raises TimeoutError after EXAM_S."""
    async with asyncio.timeout(EXAM_S):
        results = [await _result(session, target, exam.base, probe) for probe in exam.probes]
        cases = [
            Case.of(one.probe.checks, one.answer.text)
            if one.answer is not None
            else Case(None, None, None)
            for one in results
        ]
        judged = await judge(cases)
    return [
        Result(one.probe, one.answer, (*one.failures, *more), one.notes)
        for one, more in zip(results, judged, strict=True)
    ]


async def _result(
    session: aiohttp.ClientSession, target: Target, base: Target | None, probe: Probe
) -> Result:
    limit = probe.checks.logprob_drift_max
    try:
        answer = await ask(session, target, probe, logprobs=limit is not None)
    except AskError as error:
        return Result(probe, None, (Failure("answer", f"expected an answer, but {error}"),))
    failures = plain_failures(probe.checks, answer)
    notes: list[str] = []
    if limit is not None:
        failure, note = await _drift(session, base, probe, answer, limit)
        failures += [] if failure is None else [failure]
        notes += [] if note is None else [note]
    return Result(probe, answer, tuple(failures), tuple(notes))


async def _drift(
    session: aiohttp.ClientSession,
    base: Target | None,
    probe: Probe,
    answer: Answer,
    limit: float,
) -> tuple[Failure | None, str | None]:
    """Against the base version's replica, else against the stored reference; a note when there is neither."""
    expected = probe.reference
    text = "".join(one.token for one in expected)
    if base is not None:
        try:
            spoken = await ask(session, base, probe, logprobs=True)
            expected = tuple(ReferenceToken(t.token, t.logprob) for t in spoken.tokens)
            text = spoken.text
        except AskError as error:
            log.warning("acceptance.base_silent", probe=probe.name, reason=str(error))
    if not expected:
        words = "drift not checked: no base version serves and no reference is stored"
        return None, f"{probe.name}: {words}"
    measured = drift(expected, answer.tokens)
    if measured is None:
        return Failure("logprob_drift_max", "the replica gave no log-probabilities"), None
    return drift_failure(limit, measured, text, answer.text), None


def verdict(results: Sequence[Result]) -> Verdict:
    notes = tuple(note for one in results for note in one.notes)
    failed = [one for one in results if one.failures]
    if not failed:
        return Verdict(True, "", len(results), notes)
    words = failure_text(failed[0].probe, failed[0].failures)
    if len(failed) > 1:
        words += f"; {len(failed)} of {len(results)} probes failed"
    return Verdict(False, words, len(results), notes)


class Examiner:
    """Owns the exam tasks; one that is lost with its process is begun anew by the next."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        wake: Callable[[str], None],
        *,
        pause_s: float = PAUSE_S,
    ) -> None:
        self._session = session
        self._wake = wake
        self._pause_s = pause_s
        self._line: dict[str, None] = {}
        self._tries: dict[str, tuple[str, int]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._verdicts: dict[str, tuple[str, Verdict]] = {}

    def verdict(self, replica_id: str, incarnation: str | None) -> Verdict | None:
        """Of this very process; None until it is known."""
        of, found = self._verdicts.get(replica_id, (None, None))
        return found if of == incarnation else None

    def free(self, replica_id: str, incarnation: str | None) -> bool:
        """Whether its exam may begin: none runs, none is done, and it is its turn. Who asks is in line from then on."""
        if replica_id in self._tasks or self.verdict(replica_id, incarnation) is not None:
            return False
        self._line.setdefault(replica_id)
        room = EXAMS_PARALLEL_MAX - len(self._tasks)
        return replica_id in islice(self._line, max(0, room))

    def begin(self, replica_id: str, incarnation: str, target: Target, exam: Exam) -> None:
        """One more try; a replica whose process is another begins with its first."""
        of, before = self._tries.get(replica_id, (incarnation, 0))
        before = before if of == incarnation else 0
        self._tries[replica_id] = (incarnation, before + 1)
        self._line.pop(replica_id, None)
        pause_s = self._pause_s if before else 0.0
        task = asyncio.get_running_loop().create_task(
            self._examine(replica_id, incarnation, target, exam, pause_s),
            name=f"exam {replica_id}",
        )
        self._tasks[replica_id] = task
        probes = len(exam.probes)
        task.add_done_callback(lambda done: self._finish(replica_id, incarnation, probes, done))

    def keep(self, replica_ids: Iterable[str]) -> None:
        """Drop everything about other replicas."""
        kept = set(replica_ids)
        self._verdicts = {name: one for name, one in self._verdicts.items() if name in kept}
        self._tries = {name: one for name, one in self._tries.items() if name in kept}
        self._line = {name: None for name in self._line if name in kept}
        for name, task in self._tasks.items():
            if name not in kept:
                task.cancel()

    async def close(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _examine(
        self, replica_id: str, incarnation: str, target: Target, exam: Exam, pause_s: float
    ) -> None:
        await asyncio.sleep(pause_s)
        try:
            found = verdict(await examine(self._session, target, exam))
        except TimeoutError:
            words = f"the acceptance probes did not end within {EXAM_S:g} s"
            found = Verdict(False, words, len(exam.probes))
        self._conclude(replica_id, incarnation, found)

    def _conclude(self, replica_id: str, incarnation: str, found: Verdict) -> None:
        self._verdicts[replica_id] = (incarnation, found)
        log.info(
            "replica.examined",
            replica_id=replica_id,
            passed=found.passed,
            probes=found.probes,
            notes=list(found.notes),
        )
        self._wake("replicas")

    def _finish(
        self, replica_id: str, incarnation: str, probes: int, task: asyncio.Task[None]
    ) -> None:
        """Whoever waits may have his turn; an exam that broke off is tried again, but not for ever."""
        del self._tasks[replica_id]
        if self._line:
            self._wake("replicas")
        if task.cancelled() or not (error := task.exception()):
            return
        tries = self._tries.get(replica_id, (incarnation, EXAM_TRIES_MAX))[1]
        log.error("replica.exam_broke", replica_id=replica_id, tries=tries, error=repr(error))
        if tries < EXAM_TRIES_MAX:
            return
        words = f"the acceptance probes could not be asked: {tries} tries broke off, the last one by {_cause(error)}"
        self._conclude(replica_id, incarnation, Verdict(False, words, probes))


def _cause(error: BaseException) -> str:
    """One line for the operator, without secrets (T5)."""
    line = redact(f"{type(error).__name__}: {error}")
    return "".join(letter if letter.isprintable() else " " for letter in line)[:CAUSE_CHARS_MAX]
