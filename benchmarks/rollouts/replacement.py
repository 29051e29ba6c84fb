"""Eight replicas replaced under 48 streams: what the callers see, and how long the gateway takes to switch routes."""

import threading
import time

import msgspec

from benchmarks.harness import Candidate, Result
from benchmarks.rollouts.engine import Behaviour
from benchmarks.rollouts.stage import ENDPOINT, Stage, loaded, standing
from weighbridge.routing.acks import GatewayView, open_acks
from weighbridge.sdk import wait_for_deployment

STREAMS = 48
REPLICAS = 8
ROLLOUTS = 3
LOOK_S = 0.001
SETTLE_S = 2.0


class Generation(msgspec.Struct):
    generation: int


class Switches:
    """Milliseconds from the rename of each new route table to the moment when every worker has applied it."""

    def __init__(self, stage: Stage) -> None:
        self.seen_ms: list[float] = []
        self._routes = stage.run_dir / "routes.json"
        self._view = GatewayView(open_acks(stage.run_dir / "gateway.acks"))
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> list[float]:
        self._over.set()
        self._thread.join()
        return sorted(self.seen_ms)

    def _run(self) -> None:
        decoder = msgspec.json.Decoder(Generation)
        known_ns = self._routes.stat().st_mtime_ns
        wanted: tuple[int, float] | None = None
        while not self._over.wait(LOOK_S):
            at_ns = self._routes.stat().st_mtime_ns
            if at_ns != known_ns:
                known_ns = at_ns
                wanted = (decoder.decode(self._routes.read_bytes()).generation, at_ns / 1e9)
            if wanted is not None and (self._view.routes_acked() or 0) >= wanted[0]:
                self.seen_ms.append((time.time() - wanted[1]) * 1000)
                wanted = None


def run() -> Result:
    versions = [Behaviour("a", start_s=0.5), Behaviour("b", start_s=0.5)]
    took_s = []
    with standing(versions, REPLICAS) as stage, stage.client() as client:
        wait_for_deployment(client, ENDPOINT, stage.deploy(client, "a").id, timeout_s=90)
        with loaded(stage, STREAMS) as end:
            time.sleep(SETTLE_S)
            switches = Switches(stage)
            switches.start()
            for number in range(ROLLOUTS):
                began_s = time.monotonic()
                deployment = stage.deploy(client, "ba"[number % 2])
                wait_for_deployment(client, ENDPOINT, deployment.id, timeout_s=300)
                took_s.append(time.monotonic() - began_s)
            seen_ms = switches.stop()
            seen = end()
    kinds = [problem["outcome"] for problem in seen["problems"]]
    return Result(
        name="replacement",
        title=f"{REPLICAS} replicas replaced under {STREAMS} streams",
        command="python -m benchmarks replacement",
        candidates=[
            Candidate(
                f"{ROLLOUTS} rollouts",
                {
                    "switches": [float(len(seen_ms))],
                    "switch_p50_ms": [seen_ms[len(seen_ms) // 2]],
                    "switch_p99_ms": [seen_ms[int(0.99 * (len(seen_ms) - 1))]],
                    "switch_max_ms": [seen_ms[-1]],
                    "rollout_s": took_s,
                    "whole_streams": [float(sum(seen["whole"].values()))],
                    "failed": [float(kinds.count("failed"))],
                    "cut": [float(kinds.count("cut"))],
                    "mixed": [float(kinds.count("mixed"))],
                },
            )
        ],
    )
