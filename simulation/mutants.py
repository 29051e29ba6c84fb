"""`make mutants`: plant each bug of planted.toml in a copy of the planners and see whether the checks catch it.

A bug is caught when a seed of the simulation breaks an invariant or a property test fails. Whoever plants a bug that
nothing catches has found a hole in the checks.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[1]
CATALOGUE = Path(__file__).with_name("planted.toml")
EVIDENCE = ROOT / "docs" / "evidence" / "mutants.md"
COPIED = ("src", "simulation", "tests", "pyproject.toml")
SEEDS = 600
PROPERTIES = ("tests/properties", "tests/unit/rollouts/test_gate.py")
LIMIT_S = 900.0
"""A mutant that spins is caught by this."""


@dataclass(frozen=True, slots=True)
class Bug:
    """`old` is replaced by `new` in `file`, below src/weighbridge; `breaks` says which rule, and how."""

    name: str
    file: str
    breaks: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """`by` is what caught the bug, in words; empty when nothing did."""

    bug: Bug
    by: str


def bugs() -> Sequence[Bug]:
    return [Bug(**entry) for entry in tomllib.loads(CATALOGUE.read_text())["bug"]]


def misplaced() -> Iterator[str]:
    """Bugs whose place is not found any more, or found more than once."""
    for bug in bugs():
        found = (ROOT / "src/weighbridge" / bug.file).read_text().count(bug.old)
        if found != 1:
            yield f"{bug.name}: {found} places in {bug.file}"


def judge(bug: Bug, seeds: int) -> Verdict:
    with tempfile.TemporaryDirectory(prefix="wb-mutant-") as name:
        root = Path(name)
        for part in COPIED:
            source = ROOT / part
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, root / part)
        planted = root / "src/weighbridge" / bug.file
        planted.write_text(planted.read_text().replace(bug.old, bug.new))
        return Verdict(bug, _simulated(root, seeds) or _tested(root))


def _simulated(root: Path, seeds: int) -> str:
    words = ["simulation", "--seeds", str(seeds), "--workers", "1", "--first-breach"]
    done = _run(root, *words)
    if done is None:
        return "the simulation does not end"
    told = next((line for line in done.stdout.splitlines() if line.startswith("seed ")), "")
    if done.returncode and not told:
        return f"the simulation: {done.stderr.strip().splitlines()[-1]}"
    return told.split(" at event ")[0]


def _tested(root: Path) -> str:
    done = _run(root, "pytest", "-q", "-x", "-p", "no:cacheprovider", *PROPERTIES)
    if done is None:
        return "a property test does not end"
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED ")]
    return failed[0].split(" - ")[0].removeprefix("FAILED ") if failed else ""


def _run(root: Path, *module: str) -> subprocess.CompletedProcess[str] | None:
    paths = os.pathsep.join([str(root), str(root / "src"), os.environ.get("PYTHONPATH", "")])
    try:
        return subprocess.run(
            [sys.executable, "-m", *module],
            cwd=root,
            env={**os.environ, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None


def table(verdicts: Sequence[Verdict], seeds: int) -> str:
    caught = sum(bool(verdict.by) for verdict in verdicts)
    lines = [
        "# Bugs planted in the planners",
        "",
        f"`make mutants` plants them one at a time: {len(verdicts)} bugs, {caught} caught,",
        f"by {seeds} seeds of the simulation or by the property tests.",
        "",
        "| bug | breaks | caught by |",
        "|---|---|---|",
        *(f"| {v.bug.name} | {v.bug.breaks} | {v.by or '**nothing**'} |" for v in verdicts),
    ]
    return "\n".join(lines) + "\n"


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="simulation.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", help="only these bugs; nothing is written then")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args(words)
    if lost := list(misplaced()):
        print("\n".join(lost), file=sys.stderr)
        return 2
    chosen = [bug for bug in bugs() if not asked.names or bug.name in asked.names]
    verdicts = []
    with ThreadPoolExecutor(asked.workers) as pool:
        for verdict in pool.map(partial(judge, seeds=asked.seeds), chosen):
            print(f"{verdict.bug.name}: {verdict.by or 'NOT CAUGHT'}", flush=True)
            verdicts.append(verdict)
    if not asked.names:
        EVIDENCE.parent.mkdir(parents=True, exist_ok=True)
        EVIDENCE.write_text(table(verdicts, asked.seeds))
    return 0 if all(verdict.by for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
