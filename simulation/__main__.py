"""`python -m simulation`: replay a seed with its whole log, play many, or write the evidence of a soak run."""

import argparse
import os
import platform
import sys
from pathlib import Path

from simulation import evidence
from simulation.play import Outcome, play, silence
from simulation.postgres import BesidePostgres
from simulation.soak import run_seeds

LAST_EVENTS = 30
EVIDENCE = Path(__file__).parents[1] / "docs" / "evidence"
LEG_SEEDS = 5_000
"""Of a soak, written down before the next begins."""


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="replay this seed and show its whole log")
    parser.add_argument("--seeds", type=int, default=200, help="how many seeds to play")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument(
        "--first-breach", action="store_true", help="end with the first seed that fails"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--evidence",
        action="store_true",
        help="a soak: go on where docs/evidence/simulation.* ends, up to that many seeds in all",
    )
    parser.add_argument("--anew", action="store_true", help="forget what soaks have played so far")
    parser.add_argument("--postgres", help="also execute each statement there; a URL")
    parser.add_argument("--schema", default="public", help="the migrated schema to use there")
    asked = parser.parse_args(words)
    if asked.postgres is not None:
        return _beside(asked.postgres, asked.schema, range(asked.first, asked.first + asked.seeds))
    if asked.seed is not None:
        return _replay(asked.seed)
    if asked.evidence:
        return _soak(asked.seeds, asked.workers, anew=asked.anew)
    summary = run_seeds(
        asked.first, asked.seeds, asked.workers, _show, first_breach=asked.first_breach
    )
    print(summary.markdown())
    return 1 if summary.breaches else 0


def _soak(seeds: int, workers: int, *, anew: bool) -> int:
    """Leg by leg, each written down; a soak that is ended loses nothing that it has played. First those that failed."""
    played = evidence.Evidence() if anew else evidence.read(EVIDENCE)
    commit = evidence.commit(EVIDENCE.parent)
    if played.summary.failing:
        silence()
        played.judge_again([play(seed) for seed in played.summary.failing], commit)
        played.write(EVIDENCE)
    while (left := seeds - played.next_seed) > 0:
        leg = run_seeds(played.next_seed, min(left, LEG_SEEDS), workers, _show)
        played.add(leg, commit, platform.python_version())
        played.write(EVIDENCE)
        print(f"{played.next_seed:,} of {seeds:,} seeds are written down", flush=True)
        if leg.ended:
            break
    print(played.summary.markdown())
    return 1 if played.summary.breaches else 0


def _replay(seed: int) -> int:
    silence()
    outcome = play(seed, lines=True)
    print("\n".join(outcome.lines))
    _show_breaches(outcome)
    print(f"log {outcome.digest}")
    return 1 if outcome.breaches else 0


def _beside(url: str, schema: str, seeds: range) -> int:
    """Each seed in memory alone and beside PostgreSQL: the same log, and never another answer."""
    silence()
    executor = BesidePostgres(url, schema)
    for seed in seeds:
        executor.clear()
        alone, beside = play(seed, lines=True), play(seed, lines=True, executor=executor)
        if alone.digest != beside.digest:
            pairs = zip(alone.lines, beside.lines, strict=False)
            first = next((pair for pair in pairs if pair[0] != pair[1]), ("", ""))
            print(f"seed {seed}: the logs differ\nin memory:  {first[0]}\nPostgreSQL: {first[1]}")
            return 1
        print(f"seed {seed}: {beside.events} events, {executor.statements} statements so far agree")
    executor.close()
    return 0


def _show(outcome: Outcome) -> None:
    """A seed that failed: what, and how to see it again."""
    _show_breaches(outcome)
    last = outcome.breaches[0].event
    print("\n".join(outcome.lines[max(0, last - LAST_EVENTS) : last + 1]))
    print(f"again: make simulate SEED={outcome.seed}", flush=True)


def _show_breaches(outcome: Outcome) -> None:
    for breach in outcome.breaches:
        print(f"seed {outcome.seed}: {breach.invariant} at event {breach.event}: {breach.words}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
