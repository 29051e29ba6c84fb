"""Run the simulation as a program of its own: it silences the product's logs for its whole process."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIMIT_S = 600.0
SEEDS = 2_000
"""Played in each run of the tests, from 0."""
LANES = 16
"""Test cases that share them."""


def simulate(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run_module("simulation", *words, **environment)


def run_module(module: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    paths = [str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, "-m", module, *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def require_no_breach(lane: int) -> None:
    """Play a lane's share of the seeds."""
    each = SEEDS // LANES
    done = simulate("--first", str(lane * each), "--seeds", str(each), "--workers", "1")
    assert done.returncode == 0, done.stdout + done.stderr
