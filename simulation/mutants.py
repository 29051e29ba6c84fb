"""`make mutants`: plant each bug of planted.toml in the planners, in a process of its own, and see it caught.

A bug is caught when a seed of the simulation breaks an invariant or a property test fails. Whoever plants a bug that
nothing catches has found a hole in the checks. A run that was ended goes on where it was, on the same commit.
Names of bugs: only these are judged, and their rows of the page are written anew.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from simulation.evidence import commit
from simulation.planting import Bug, bugs, misplaced

ROOT = Path(__file__).parents[1]
EVIDENCE = ROOT / "docs" / "evidence" / "mutants.md"
JUDGED = EVIDENCE.with_suffix(".json")
"""The verdicts from which the page is made."""
SEEDS = 600
SEEDS_FIRST = 25
"""Tried before everything else: they catch most bugs."""
SEEDS_SECOND = 150
STEPS = (
    "tests/properties/test_rollout_steps.py",
    "tests/unit/rollouts/test_gate.py",
    "tests/unit/gateway/limits/test_holds.py",
    "tests/unit/routing/test_host_watch.py",
)
PLAYS = (
    "tests/properties/test_rollout_play.py",
    "tests/properties/test_replica_play.py",
    "tests/properties/test_forecast_play.py",
    "tests/properties/test_collection_play.py",
    "tests/unit/rollouts/test_deployments.py",
    "tests/unit/gateway/courier/test_courier_rounds.py",
)
PLAYS_SLOW = ("tests/properties/test_api_play.py",)
LIMIT_S = 900.0
"""A mutant that spins is caught by this."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`by` is what caught a bug, in words, as seen on `commit`; empty when nothing did."""

    by: str
    commit: str


class JudgeError(Exception):
    """The checks themselves do not work, which says nothing of a bug."""


def judge(bug: Bug) -> str:
    """What catches it; what is quick and catches much comes first."""
    return (
        _simulated(bug, range(SEEDS_FIRST))
        or _tested(bug, STEPS)
        or _simulated(bug, range(SEEDS_FIRST, SEEDS_SECOND))
        or _tested(bug, PLAYS)
        or _simulated(bug, range(SEEDS_SECOND, SEEDS))
        or _tested(bug, PLAYS_SLOW)
    )


def _simulated(bug: Bug, seeds: range) -> str:
    words = ["--first", str(seeds.start), "--seeds", str(len(seeds))]
    done = _run(bug, "simulation", *words, "--workers", "1", "--first-breach")
    if done is None:
        return "the simulation does not end"
    told = next((line for line in done.stdout.splitlines() if line.startswith("seed ")), "")
    if done.returncode and not told:
        return f"the simulation: {done.stderr.strip().splitlines()[-1]}"
    return told.split(" at event ")[0]


def _tested(bug: Bug, plays: Sequence[str]) -> str:
    """Raises JudgeError when the tests could not be run."""
    plugins = ("-p", "no:cacheprovider", "-p", "simulation.planting")
    done = _run(bug, "pytest", "-q", "-x", "-n", "0", *plugins, *plays)
    if done is None:
        return "a property test does not end"
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED ")]
    if done.returncode and not failed:
        raise JudgeError(f"{bug.name}: {done.stdout[-2_000:]}{done.stderr[-2_000:]}")
    return failed[0].split(" - ")[0].removeprefix("FAILED ") if failed else ""


def _run(bug: Bug, *module: str) -> subprocess.CompletedProcess[str] | None:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    try:
        return subprocess.run(
            [sys.executable, "-m", "simulation.planting", bug.name, *module],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None


def judged() -> dict[str, Verdict]:
    """What earlier runs have found, by the names of bugs."""
    if not JUDGED.exists():
        return {}
    return {name: Verdict(**one) for name, one in json.loads(JUDGED.read_text()).items()}


def table(found: Mapping[str, Verdict]) -> str:
    caught = sum(bool(one.by) for one in found.values())
    commits = Counter(one.commit for one in found.values())
    lines = [
        "# Bugs planted in the planners",
        "",
        f"`make mutants` plants them one at a time: {len(found)} bugs, {caught} caught,",
        f"by {SEEDS} seeds of the simulation, or by tests of properties, gate, holds, hosts and writes;",
        f"{', '.join(f'{count} on {commit}' for commit, count in commits.items())}.",
        "",
        "| bug | breaks | caught by |",
        "|---|---|---|",
        *(
            f"| {bug.name} | {bug.breaks} | {found[bug.name].by or '**nothing**'} |"
            for bug in bugs()
        ),
    ]
    return "\n".join(lines) + "\n"


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="simulation.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", help="judge only these anew")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args(words)
    if lost := list(misplaced()):
        print("\n".join(lost), file=sys.stderr)
        return 2
    now, known = commit(ROOT), {bug.name for bug in bugs()}
    if unknown := sorted(set(asked.names) - known):
        print(f"no such bug: {', '.join(unknown)}", file=sys.stderr)
        return 2
    found = {
        name: verdict
        for name, verdict in judged().items()
        if name in known and (asked.names or (verdict.commit == now and not now.endswith("+")))
    }
    wanted = set(asked.names) or known
    chosen = [bug for bug in bugs() if bug.name in (asked.names or known - found.keys())]
    began_s = time.monotonic()
    with ThreadPoolExecutor(asked.workers) as pool:
        for bug, by in zip(chosen, pool.map(judge, chosen), strict=True):
            print(f"{bug.name}: {by or 'NOT CAUGHT'}", flush=True)
            found[bug.name] = Verdict(by, now)
            EVIDENCE.parent.mkdir(parents=True, exist_ok=True)
            texts = {name: asdict(verdict) for name, verdict in found.items()}
            JUDGED.write_text(json.dumps(texts, indent=1) + "\n")
    print(f"{len(chosen)} bugs in {time.monotonic() - began_s:,.0f} s on {asked.workers} workers")
    if found.keys() == known:
        EVIDENCE.write_text(table(found))
    return 0 if all(found[name].by for name in wanted) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
