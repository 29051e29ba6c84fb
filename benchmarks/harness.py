"""What every benchmark shares: conditions of the machine, medians, and the result file."""

import json
import os
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One thing measured: its samples per figure, in the figure's unit (the name's last word)."""

    name: str
    samples: Mapping[str, Sequence[float]]

    @property
    def medians(self) -> dict[str, float]:
        return {figure: statistics.median(values) for figure, values in self.samples.items()}


@dataclass(frozen=True, slots=True)
class Fact:
    """One figure beside the table; `goal` is what it has to reach, in words."""

    name: str
    unit: str
    samples: Sequence[float]
    goal: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.samples)


@dataclass(frozen=True, slots=True)
class Result:
    """A benchmark's outcome; `candidates` of one result were measured interleaved in one run."""

    name: str
    title: str
    command: str
    candidates: Sequence[Candidate]
    notes: Sequence[str] = field(default_factory=tuple)
    facts: Sequence[Fact] = field(default_factory=tuple)


def conditions() -> dict[str, object]:
    """The machine in words and its load, without names or addresses."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
        "load_average_1m": round(os.getloadavg()[0], 2),
    }


def write(result: Result) -> Path:
    """Write results/<name>.json: conditions, medians and every sample."""
    document = {
        "name": result.name,
        "title": result.title,
        "command": result.command,
        "conditions": conditions(),
        "notes": list(result.notes),
        "candidates": [{**asdict(one), "medians": one.medians} for one in result.candidates],
        "facts": [{**asdict(one), "median": one.median} for one in result.facts],
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{result.name}.json"
    path.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
    return path
