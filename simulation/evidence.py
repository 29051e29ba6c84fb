"""What soaks have played in sum, leg by leg: `simulation.json`, from which the next goes on, and its page."""

import json
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from simulation.play import Outcome
from simulation.soak import Summary

FIGURES = "simulation.json"
PAGE = "simulation.md"
COUNTERS = ("rollouts", "faults", "requests", "checks", "breaches")
AMOUNTS = ("seeds", "events", "virtual_s", "cpu_s", "wall_s")
GIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Leg:
    """Seeds `first` to `first + seeds`, played on one commit; a `+` after it says that files had changed."""

    commit: str
    first: int
    seeds: int
    failing: tuple[int, ...]
    python: str
    cpu_s: float


@dataclass(slots=True)
class Evidence:
    """`summary` is the sum of the legs; the next seed is the first that none of them has played.

    `mended`: seeds that failed in a leg, and the commit on which they were seen to pass.
    """

    summary: Summary = field(default_factory=Summary)
    legs: list[Leg] = field(default_factory=list)
    mended: dict[int, str] = field(default_factory=dict)

    @property
    def next_seed(self) -> int:
        return self.summary.first + self.summary.seeds

    def add(self, played: Summary, commit: str, python: str) -> None:
        """A leg that goes on with the last one's commit makes it longer."""
        for name in AMOUNTS:
            setattr(self.summary, name, getattr(self.summary, name) + getattr(played, name))
        for name in COUNTERS:
            getattr(self.summary, name).update(getattr(played, name))
        self.summary.failing += played.failing
        self.summary.workers = played.workers
        leg = Leg(commit, played.first, played.seeds, tuple(played.failing), python, played.cpu_s)
        last = self.legs[-1] if self.legs else None
        if last is not None and (last.commit, last.python) == (commit, python):
            self.legs[-1] = replace(
                last,
                seeds=last.seeds + leg.seeds,
                failing=last.failing + leg.failing,
                cpu_s=last.cpu_s + leg.cpu_s,
            )
        else:
            self.legs.append(leg)

    def judge_again(self, again: Sequence[Outcome], commit: str) -> None:
        """`again`: all seeds that have failed so far, played on another commit; those that pass count no more."""
        self.mended |= {outcome.seed: commit for outcome in again if not outcome.breaches}
        self.summary.failing = [outcome.seed for outcome in again if outcome.breaches]
        self.summary.breaches = Counter(
            breach.invariant for outcome in again for breach in outcome.breaches
        )

    def write(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        rows = [
            f"| {leg.first:,} to {leg.first + leg.seeds - 1:,} | {leg.commit} | {leg.python} | {len(leg.failing)} |"
            for leg in self.legs
        ]
        page = [
            "# What the simulation has played",
            "",
            "`make soak` writes this page, and goes on where it ended.",
            "",
            self.summary.markdown(),
            "| Seeds | commit | Python | failed |",
            "|---|---|---|---:|",
            *rows,
            *self._mended_lines(),
        ]
        (directory / PAGE).write_text("\n".join(page) + "\n")
        figures = {
            **self.summary.document(),
            "sum": {one.name: getattr(self.summary, one.name) for one in fields(Summary)},
            "legs": [asdict(leg) for leg in self.legs],
            "mended": self.mended,
        }
        (directory / FIGURES).write_text(json.dumps(figures, indent=1) + "\n")

    def _mended_lines(self) -> Iterator[str]:
        if self.mended:
            yield ""
            yield "Seeds that failed and were played again once their cause was mended; the history names each:"
            yield ""
            yield from (f"* {seed} passes on {on}" for seed, on in sorted(self.mended.items()))


def read(directory: Path) -> Evidence:
    """Empty where nothing was played yet."""
    path = directory / FIGURES
    if not path.exists():
        return Evidence()
    figures = json.loads(path.read_text())
    totals = figures["sum"]
    summary = Summary(**totals | {name: Counter(totals[name]) for name in COUNTERS})
    legs = [Leg(**leg | {"failing": tuple(leg["failing"])}) for leg in figures["legs"]]
    mended = {int(seed): on for seed, on in figures.get("mended", {}).items()}
    return Evidence(summary, legs, mended)


def commit(directory: Path) -> str:
    """Of the working tree around `directory`; with a `+` where what is played or judges has changed since."""

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", *words],
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=GIT_S,
            check=True,
        )
        return done.stdout.strip()

    parts = (":/src", ":/simulation", ":/tests")  # from the top, wherever `directory` is
    changed = git("status", "--porcelain", "--untracked-files=no", "--", *parts)
    return git("rev-parse", "--short=10", "HEAD") + ("+" if changed else "")
