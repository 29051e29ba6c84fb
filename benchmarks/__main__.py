"""Run benchmarks by name (all without one), write results/, and bring the documents' tables up to date."""

import importlib
import sys

from benchmarks import tables
from benchmarks.harness import Result, write

NAMES = (
    "main_job",
    "gateway",
    "verdict",
    "ingest",
    "rollouts",
    "replacement",
    "latency",
    "endurance",
    "planner",
    "affinity",
    "scale",
    "distribution",
)


def main(names: list[str]) -> int:
    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        print(
            f"no such benchmark: {', '.join(unknown)}; there are: {', '.join(NAMES)}",
            file=sys.stderr,
        )
        return 2
    for name in names or NAMES:
        found = importlib.import_module(f"benchmarks.{name}").run()
        for result in [found] if isinstance(found, Result) else found:
            print(write(result).name)
            print(tables.table(result.name))
    tables.main()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
