"""Many seeds on several processes, and what they came to in sum."""

import gc
import multiprocessing
import platform
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from simulation.history.checker import known
from simulation.play import Outcome, play, silence

CHUNK = 25
TOLD_EACH = 1_000
"""Seeds between two lines of progress."""
SHOWN_MAX = 20
"""Failing seeds that are told of in full."""


@dataclass(slots=True)
class Summary:
    """`cpu_s` is of all workers together, checks and all."""

    first: int = 0
    seeds: int = 0
    workers: int = 1
    wall_s: float = 0.0
    cpu_s: float = 0.0
    events: int = 0
    virtual_s: float = 0.0
    rollouts: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)
    checks: Counter[str] = field(default_factory=Counter)
    breaches: Counter[str] = field(default_factory=Counter)
    failing: list[int] = field(default_factory=list)
    ended: bool = False

    def add(self, outcome: Outcome) -> None:
        self.seeds += 1
        self.events += outcome.events
        self.virtual_s += outcome.virtual_s
        self.rollouts.update(outcome.rollouts)
        self.faults.update(outcome.faults)
        self.requests.update(outcome.requests)
        self.checks.update(outcome.checks)
        self.breaches.update(breach.invariant for breach in outcome.breaches)
        if outcome.breaches:
            self.failing.append(outcome.seed)

    @property
    def rate(self) -> float:
        """Rollouts per second and core."""
        return self.rollouts.total() / self.cpu_s if self.cpu_s else 0.0

    def document(self) -> dict[str, object]:
        return {
            "first_seed": self.first,
            "seeds": self.seeds,
            "violations": self.breaches.total(),
            "failing_seeds": self.failing,
            "rollouts": dict(sorted(self.rollouts.items())),
            "faults": dict(sorted(self.faults.items())),
            "requests": dict(sorted(self.requests.items())),
            "events": self.events,
            "simulated_hours": round(self.virtual_s / 3600, 1),
            "checks": {name: self.checks[name] for name in known()},
            "violations_by_invariant": dict(sorted(self.breaches.items())),
            "rollouts_per_s_and_core": round(self.rate, 1),
            "wall_s": round(self.wall_s, 1),
            "cpu_s": round(self.cpu_s, 1),
            "workers": self.workers,
            "conditions": {
                "python": platform.python_version(),
                "machine": platform.machine(),
                "cores": multiprocessing.cpu_count(),
            },
        }

    def markdown(self) -> str:
        lines = [
            (
                f"{self.seeds:,} seeds from {self.first:,}: {self.rollouts.total():,} rollouts, "
                f"{self.faults.total():,} faults, {self.requests.total():,} requests, {self.events:,} events, "
                f"{self.virtual_s / 3600:,.0f} simulated hours; **{self.breaches.total():,} violations**."
            ),
            "",
            (
                f"{self.rate:.1f} rollouts/s/core, {self.wall_s:,.0f} s on {self.workers} workers, "
                f"Python {platform.python_version()}."
            ),
            "",
            *_table("Rollouts by end", self.rollouts),
            *_table("Faults", self.faults),
            *_table("Requests by end", self.requests),
            *_table("Invariant, times checked", Counter({n: self.checks[n] for n in known()})),
        ]
        if self.breaches:
            lines += _table("Invariant, violations", self.breaches)
            lines += [f"Failing seeds: {self.failing[:SHOWN_MAX]}", ""]
        return "\n".join(lines)


def _table(title: str, counts: Counter[str]) -> list[str]:
    rows = [f"| {name} | {count:,} |" for name, count in sorted(counts.items())]
    return [f"| {title} | |", "|---|---:|", *rows, ""]


def run_seeds(
    first: int,
    count: int,
    workers: int,
    show: Callable[[Outcome], None],
    *,
    first_breach: bool = False,
) -> Summary:
    """Play seeds `first` to `first + count`, or to the first that breaks an invariant; `show` is called with those.

    Ctrl-C ends it early: the summary is then of the seeds that were played, without a gap, and `ended`.
    """
    summary = Summary(first=first, workers=workers)
    began_s = time.monotonic()
    try:
        for outcomes, cpu_s in _chunks(first, count, workers):
            summary.cpu_s += cpu_s
            for outcome in outcomes:
                summary.add(outcome)
                if outcome.breaches and len(summary.failing) <= SHOWN_MAX:
                    show(outcome)
            if first_breach and summary.failing:
                break
            if summary.seeds % TOLD_EACH == 0:
                told = f"{summary.seeds:,} of {count:,} seeds, {len(summary.failing)} failed"
                print(told, file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        summary.ended = True
        print(f"ended after {summary.seeds:,} of {count:,} seeds", file=sys.stderr)
    summary.wall_s = time.monotonic() - began_s
    return summary


def _chunks(first: int, count: int, workers: int) -> Iterator[tuple[list[Outcome], float]]:
    end = first + count
    chunks = [range(at, min(end, at + CHUNK)) for at in range(first, end, CHUNK)]
    if workers == 1:
        silence()
        yield from map(_play, chunks)
        return
    with multiprocessing.get_context("spawn").Pool(workers, _settle) as pool:
        yield from pool.imap(_play, chunks)


def _settle() -> None:
    """A worker leaves Ctrl-C to the process that counts."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    silence()


def _play(seeds: range) -> tuple[list[Outcome], float]:
    began_s = time.process_time()
    outcomes = []
    collecting = gc.isenabled()
    gc.disable()
    for seed in seeds:
        outcomes.append(play(seed))
        gc.collect(0)  # a whole world, which is garbage now, and nothing that is older
    if collecting:
        gc.enable()
    return outcomes, time.process_time() - began_s
