"""The course of the scale benchmark: growing fleets, the api beside the largest, then Ray where it is installed."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median

from benchmarks.harness import Candidate, Fact, Result
from benchmarks.scale import clusters, serving
from benchmarks.scale.fleet import DEPLOYMENTS_PAST, NODES, REPLICAS, WEEK, Fleet, fill
from benchmarks.scale.growth import fit
from weighbridge.storage import embedded
from weighbridge.storage.schema.migrate import migrate

SIZES = tuple(map(int, os.environ.get("BENCH_FLEETS", "125,250,500,1000").split(",")))
COMMAND = "python -m benchmarks scale"
LIMIT_S = 600.0

Samples = Mapping[str, Sequence[float]]


def run() -> Iterator[Result]:
    """One after the other, so that what is measured is written even if what comes next fails."""
    with tempfile.TemporaryDirectory(prefix="wb-bench-", dir="/var/tmp") as name:
        root = Path(name)
        root.chmod(0o755)
        url = embedded.start(root / "postgres")
        try:
            migrate(url)
            measured = {size: _measure(url, root, Fleet(size)) for size in SIZES}
            yield _steady(measured)
            yield _changed(measured)
            yield serving.run(url, root / "postgres", root / "api", Fleet(max(SIZES)))
        finally:
            embedded.stop(root / "postgres")
    yield from clusters.run()


def _measure(url: str, root: Path, fleet: Fleet) -> dict:
    asyncio.run(fill(url, fleet))
    given = {
        "url": url,
        "postgres": str(root / "postgres"),
        "data": str(root / str(fleet.endpoints)),
        "endpoints": fleet.endpoints,
    }
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scale.controller", json.dumps(given)],
        stdout=subprocess.PIPE,
        timeout=LIMIT_S,
        check=True,
        text=True,
    )
    found = json.loads(done.stdout)
    print(f"{fleet.endpoints} endpoints: {_words(found)}", flush=True)
    return dict(found)


def _words(found: Mapping) -> str:
    idle, changed = ([one["cpu_ms"] for one in found[kind]] for kind in ("idle", "changed"))
    return (
        f"CPU of a pass {median(idle):.0f} ms, with changes {median(changed):.0f} ms, "
        f"{found['memory_mib']:.0f} MiB"
    )


def _steady(measured: Mapping[int, dict]) -> Result:
    rows = {size: _steady_row(found) for size, found in measured.items()}
    facts = _growth(rows, ("cpu_ms", "database_cpu_ms", "rows", "memory_mib"))
    probes_ms = [found["probe_ms"] for found in measured.values()]
    per_core = [1000 / ms for ms in probes_ms]
    facts += [
        Fact("CPU of the controller per probe over HTTP", "ms", probes_ms),
        Fact("probes that a core can make", "per s", per_core),
    ]
    return Result(
        name="scale",
        title=f"endpoints × {REPLICAS} replicas, a pass with nothing changed",
        command=COMMAND,
        candidates=[Candidate(f"{size:,}", row) for size, row in rows.items()],
        facts=facts,
        notes=[
            "one pass of the reconcilers of rollouts, replicas, routes and receipts; `rest` is the share of a core",
            f"{NODES} nodes; {DEPLOYMENTS_PAST} past deployments an endpoint, stopped replicas of {WEEK} of them",
        ],
    )


def _steady_row(found: Mapping) -> Samples:
    idle = found["idle"]
    return {
        "cpu_ms": [one["cpu_ms"] for one in idle],
        "wall_ms": [one["wall_ms"] for one in idle],
        "database_cpu_ms": [one["database_cpu_ms"] for one in idle],
        "statements": [one["statements"] for one in idle],
        "rows": [one["rows"] for one in idle],
        "rest_percent": [found["rest"]["controller_percent"]],
        "database_rest_percent": [found["rest"]["database_percent"]],
        "connections": found["connections"],
        "memory_mib": [found["memory_mib"]],
        "memory_peak_mib": [found["memory_peak_mib"]],
    }


def _changed(measured: Mapping[int, dict]) -> Result:
    rows = {
        size: {
            figure: [one[figure] for one in found["changed"]]
            for figure in ("cpu_ms", "wall_ms", "database_cpu_ms", "statements", "rows")
        }
        | {"whole_again_s": found["whole_again_s"]}
        for size, found in measured.items()
    }
    return Result(
        name="scale_changed",
        title=f"endpoints × {REPLICAS} replicas, two passes: 1 % of them are found lost, and replacements asked for",
        command=COMMAND,
        candidates=[Candidate(f"{size:,}", row) for size, row in rows.items()],
        facts=_growth(rows, ("cpu_ms", "database_cpu_ms", "statements", "rows")),
        notes=[
            "Two of the nodes are lost; `whole again` is until every replica is replaced and routed to."
        ],
    )


def _growth(rows: Mapping[int, Samples], figures: Sequence[str]) -> list[Fact]:
    facts = []
    for figure in figures:
        line = fit({size: median(row[figure]) for size, row in rows.items()})
        name = figure.replace("_", " ")
        facts += [
            Fact(f"{name}: per 1,000 endpoints", "", [line.per_endpoint * 1000]),
            Fact(f"{name}: farthest from a straight line", "%", [line.deviation_percent]),
        ]
    return facts
