"""A million requests through one gateway: whether its memory stays flat and no request fails."""

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks.gateway import peers
from benchmarks.gateway.cost import HERE, engines
from benchmarks.harness import Candidate, Result

REQUESTS = int(os.environ.get("BENCH_REQUESTS", "1000000"))
CONNECTIONS = 64
LOOK_S = 1.0
LIMIT_S = 1800.0


def run() -> Result:
    with tempfile.TemporaryDirectory(prefix="wb-bench-") as name, ExitStack() as stack:
        ports = stack.enter_context(engines(0.0))
        peer = peers.weighbridge(Path(name), ports)
        gateway = stack.enter_context(peers.running(peer, Path(name)))
        options = {
            "port": peer.port,
            "connections": CONNECTIONS,
            "answers": REQUESTS,
            "seconds": LIMIT_S,
            "stream": False,
            "key": peers.KEY.format(7),
            "model": peers.MODEL.format(0),
        }
        command = [sys.executable, str(HERE / "load.py"), json.dumps(options)]
        began_s, resident_mib = time.monotonic(), []
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            while process.poll() is None:
                time.sleep(LOOK_S)
                resident_mib.append(peers.resident_mib(gateway.pid))
            assert process.stdout is not None
            seen = json.loads(process.stdout.read().splitlines()[-1])
        took_s = time.monotonic() - began_s
        tenth = resident_mib[len(resident_mib) // 10]
        late = resident_mib[-max(1, len(resident_mib) // 50) - 1]
        return Result(
            name="endurance",
            title="requests through one gateway worker",
            command="python -m benchmarks endurance",
            candidates=[
                Candidate(
                    f"{REQUESTS:,}",
                    {
                        "answers": [float(seen["answers"])],
                        "errors": [float(seen["errors"])],
                        "seconds": [took_s],
                        "rss_after_a_tenth_mib": [tenth],
                        "rss_at_the_end_mib": [late],
                        "growth_percent": [(late - tenth) / tenth * 100],
                    },
                )
            ],
        )
