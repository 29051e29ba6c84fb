"""What the gateway adds to latency on a machine that is not saturated: fixed rates, and 64 streams in the mean that
begin at times of their own; direct and through the gateway in turn.
"""

import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

from benchmarks.gateway import peers
from benchmarks.gateway.cost import HERE, engines
from benchmarks.gateway.engine import CHUNKS
from benchmarks.harness import Candidate, Result

ROUNDS = 3
SECONDS = 4.0
RATES = (100, 500, 1000)
STREAMS = 64
PAUSE_S = 0.03
"""Between two tokens of a stream, as a real model's."""
STREAM_S = CHUNKS * PAUSE_S
WARM_S = 2 * STREAM_S
"""Until as many streams run as will in the mean."""
STREAMS_S = 10.0


def run() -> Result:
    samples: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory(prefix="wb-bench-") as name, ExitStack() as stack:
        ports = stack.enter_context(engines(PAUSE_S))
        peer = peers.weighbridge(Path(name), ports)
        stack.enter_context(peers.running(peer, Path(name)))
        for _ in range(ROUNDS):
            for rate in RATES:
                asked = [_ask("rate", p, rate) for p in (ports[0], peer.port)]
                _pair(samples[f"{rate} requests/s"], *asked)
            streams = [
                _ask("paced", p, STREAMS / STREAM_S, STREAMS_S) for p in (ports[0], peer.port)
            ]
            _pair(samples[f"{STREAMS} streams: time to first token"], *streams)
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


def _ask(module: str, port: int, per_s: float, seconds: float = SECONDS) -> dict[str, float]:
    options = {
        "port": port,
        "per_s": per_s,
        "seconds": seconds,
        "warm_s": WARM_S,
        "key": peers.KEY.format(7),
        "model": peers.MODEL.format(0),
    }
    command = [sys.executable, "-m", f"benchmarks.gateway.{module}", json.dumps(options)]
    told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE.parents[1])
    seen: dict[str, float] = json.loads(told.stdout)
    return seen
