"""Callers of the demo: clients that stream answers without pause, and what became of each answer."""

import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Self

from weighbridge.sdk import Client, ClientError, StreamError, WaitTimeoutError

CLIENTS = 8
PROBLEMS_MAX = 5
"""Problems kept word for word; the others are only counted."""

JOIN_TIMEOUT_S = 60.0
REFUSED_PAUSE_S = 0.1
"""A server that refuses is not to be hammered."""


class Outcome(StrEnum):
    ANSWERED = "answered"
    FAILED = "failed"
    CUT = "cut"


@dataclass(frozen=True, slots=True)
class Tally:
    """`answered` counts whole answers by version; `failed` never began, `cut` broke off or mixed versions."""

    answered: Mapping[str, int]
    failed: int
    cut: int
    problems: tuple[str, ...]

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            Counter(self.answered) + Counter(other.answered),
            self.failed + other.failed,
            self.cut + other.cut,
            (self.problems + other.problems)[:PROBLEMS_MAX],
        )

    @property
    def clean(self) -> bool:
        return self.failed == 0 and self.cut == 0 and not self.answered.get("?")


NOTHING = Tally({}, 0, 0, ())


@dataclass(frozen=True, slots=True)
class Answer:
    outcome: Outcome
    version: str
    problem: str = ""


class Traffic:
    """Streams run while the context lasts; on leaving, those that run are read to their end.

    Nothing is retried, so that no failure hides. `suffixes` tells a version from its fingerprint's end. After an
    answer a client waits `pause_s` before it asks again.
    """

    def __init__(
        self,
        client: Client,
        endpoint_id: str,
        question: str,
        suffixes: Mapping[str, str],
        *,
        pause_s: float = 0.0,
    ) -> None:
        self._client = client
        self._endpoint_id = endpoint_id
        self._question = question
        self._suffixes = suffixes
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._answers: Counter[tuple[Outcome, str]] = Counter()
        self._problems: list[str] = []
        self._threads = [
            threading.Thread(target=self._run, name=f"client-{number}", daemon=True)
            for number in range(CLIENTS)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if error is None:
            for thread in self._threads:
                thread.join(JOIN_TIMEOUT_S)

    def tally(self) -> Tally:
        with self._lock:
            answered = {
                version: number
                for (outcome, version), number in sorted(self._answers.items())
                if outcome is Outcome.ANSWERED
            }
            totals = Counter[Outcome]()
            for (outcome, _), number in self._answers.items():
                totals[outcome] += number
            unfinished = sum(thread.is_alive() for thread in self._threads) * self._stop.is_set()
            return Tally(
                answered,
                totals[Outcome.FAILED],
                totals[Outcome.CUT] + unfinished,
                tuple(self._problems),
            )

    def wait_for_answers(self, count: int, *, timeout_s: float) -> None:
        """Wait until `count` more answers are whole, or one is not."""
        deadline = time.monotonic() + timeout_s
        goal = sum(self.tally().answered.values()) + count
        while (tally := self.tally()).clean and sum(tally.answered.values()) < goal:
            if time.monotonic() > deadline:
                raise WaitTimeoutError(
                    f"The clients got no {count} answers within {timeout_s:g} s."
                )
            time.sleep(0.05)

    def _run(self) -> None:
        while not self._stop.is_set():
            answer = self._ask()
            with self._lock:
                self._answers[answer.outcome, answer.version] += 1
                if answer.problem and len(self._problems) < PROBLEMS_MAX:
                    self._problems.append(answer.problem)
            whole = answer.outcome is Outcome.ANSWERED
            self._stop.wait(self._pause_s if whole else max(self._pause_s, REFUSED_PAUSE_S))

    def _ask(self) -> Answer:
        messages = [{"role": "user", "content": self._question}]
        try:
            with self._client.chat.stream(self._endpoint_id, messages, temperature=0) as stream:
                for _ in stream:
                    pass
        except StreamError as error:
            return Answer(Outcome.CUT, "?", error.message)
        except ClientError as error:
            return Answer(Outcome.FAILED, "?", error.message)
        if not stream.marked_done:
            return Answer(Outcome.CUT, "?", "A stream ended without [DONE].")
        if not stream.text:
            return Answer(Outcome.CUT, "?", "A stream carried no text.")
        if len(stream.fingerprints) != 1:
            seen = ", ".join(sorted(stream.fingerprints)) or "none"
            return Answer(Outcome.CUT, "?", f"A stream must have one fingerprint; it had: {seen}.")
        return Answer(Outcome.ANSWERED, version_of(next(iter(stream.fingerprints)), self._suffixes))


def version_of(fingerprint: str, suffixes: Mapping[str, str]) -> str:
    """The version whose suffix ends the fingerprint, or `?`."""
    for version, suffix in suffixes.items():
        if fingerprint.endswith(f"-{suffix}"):
            return version
    return "?"
