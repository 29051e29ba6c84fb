"""What the gateway adds to latency on a machine that is not saturated: fixed rates, and 64 streams; direct and
through the gateway in turn.
"""

import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

from benchmarks import gateway_peers as peers
from benchmarks.gateway import HERE, engines, load
from benchmarks.harness import Candidate, Result

ROUNDS = 3
SECONDS = 4.0
RATES = (100, 500, 1000)
STREAMS = 64
PAUSE_S = 0.03
"""Between two tokens of a stream, as a real model's."""


def run() -> Result:
    samples: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory(prefix="wb-bench-") as name, ExitStack() as stack:
        ports = stack.enter_context(engines(PAUSE_S))
        peer = peers.weighbridge(Path(name), ports)
        stack.enter_context(peers.running(peer, Path(name)))
        for _ in range(ROUNDS):
            for rate in RATES:
                _pair(
                    samples[f"{rate} requests/s"], *(_ask(p, rate) for p in (ports[0], peer.port))
                )
            seen = [
                load(port, connections=STREAMS, stream=True, seconds=SECONDS)
                for port in (ports[0], peer.port)
            ]
            firsts = [
                {
                    "p50_ms": one["first_p50_ms"],
                    "p99_ms": one["first_p99_ms"],
                    "errors": one["errors"],
                }
                for one in seen
            ]
            _pair(samples[f"{STREAMS} streams: time to first token"], *firsts)
    return Result(
        name="latency",
        title="latency through the gateway",
        command="python -m benchmarks latency",
        candidates=[Candidate(name, dict(one)) for name, one in samples.items()],
    )


def _pair(
    samples: dict[str, list[float]], direct: dict[str, float], through: dict[str, float]
) -> None:
    for name in ("p50_ms", "p99_ms"):
        samples[f"direct_{name}"].append(direct[name])
        samples[f"added_{name}"].append(through[name] - direct[name])
    samples["errors"].append(direct["errors"] + through["errors"])


def _ask(port: int, per_s: int) -> dict[str, float]:
    options = {
        "port": port,
        "per_s": per_s,
        "seconds": SECONDS,
        "key": peers.KEY.format(7),
        "model": peers.MODEL.format(0),
    }
    command = [sys.executable, "-m", "benchmarks.gateway_rate", json.dumps(options)]
    told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE.parent)
    seen: dict[str, float] = json.loads(told.stdout)
    return seen
