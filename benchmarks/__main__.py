"""Run benchmarks by name (all without one), write results/, and bring the documents' tables up to date."""

import importlib
import sys

from benchmarks import tables
from benchmarks.harness import Result, write

MODULES = {
    "main_job": "main_job",
    "gateway": "gateway.cost",
    "verdict": "ingest.verdict",
    "ingest": "ingest.speed",
    "rollouts": "rollouts.program",
    "replacement": "rollouts.replacement",
    "latency": "gateway.latency",
    "endurance": "gateway.endurance",
    "planner": "planner",
    "affinity": "affinity",
    "scale": "scale.program",
    "distribution": "scale.distribution",
}
"""By a benchmark's name, in the order in which all are run."""


def main(names: list[str]) -> int:
    unknown = sorted(set(names) - MODULES.keys())
    if unknown:
        print(
            f"no such benchmark: {', '.join(unknown)}; there are: {', '.join(MODULES)}",
            file=sys.stderr,
        )
        return 2
    for name in names or MODULES:
        found = importlib.import_module(f"benchmarks.{MODULES[name]}").run()
        for result in [found] if isinstance(found, Result) else found:
            print(write(result).name)
            print(tables.table(result.name))
    tables.main()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
