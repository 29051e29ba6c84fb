"""The main job as a newcomer runs it: `weighbridge demo`, several times, seconds per step."""

import json
import subprocess
import sys
from collections import defaultdict

from benchmarks.harness import Candidate, Result

RUNS = 3
TIMEOUT_S = 180


def run() -> Result:
    seconds: defaultdict[str, list[float]] = defaultdict(list)
    failed = cut = answered = 0
    for _ in range(RUNS):
        finished = subprocess.run(
            [sys.executable, "-m", "weighbridge.cli.main", "demo", "--json"],
            check=True,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
        document = json.loads(finished.stdout)
        for step in document["steps"]:
            seconds[step["name"]].append(step["seconds"])
        failed += document["requests"]["failed"]
        cut += document["requests"]["cut"]
        answered += sum(document["requests"]["answered"].values())
    return Result(
        name="main_job",
        title="step of the main job",
        command="make bench",
        candidates=[Candidate(title, {"seconds": samples}) for title, samples in seconds.items()],
        notes=[f"{answered} requests answered during the rollouts, {failed} failed, {cut} cut"],
    )
