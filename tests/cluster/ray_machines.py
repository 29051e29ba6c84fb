"""A real Ray cluster whose machines are loopback addresses: each node is a session of processes, killed as one.

with running_cluster(nodes=2) as machines:
    machines.nodes["n1"].kill()
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from weighbridge.runtimes.processes import child_pids
from weighbridge.runtimes.ray.options import RayOptions
from weighbridge.settings import Settings

TOKEN = "a-token-of-the-test-cluster"
RAY = (sys.executable, "-c", "from ray.scripts.scripts import main; main()")
START_LIMIT_S = 60.0
HEALTH = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "4",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_initial_delay_ms": "3000",
}


@dataclass
class RayNode:
    """`ray start --block` in a session of its own; its workers are found by the session directory."""

    name: str
    ip: str
    process: subprocess.Popen[bytes]
    log: Path

    def tree(self) -> list[int]:
        """Every process of the node but the engines, whose shims have left it."""
        found, todo = [], [self.process.pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            todo += child_pids(pid)
        return found

    def signal(self, number: signal.Signals) -> None:
        for pid in self.tree():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        """As if the machine lost its power; the engines notice by their lifelines."""
        self.signal(signal.SIGKILL)
        self.process.wait()


@dataclass
class Machines:
    """A head on 127.0.0.<base> that runs no replicas, and nodes beside it."""

    root: Path
    base: int
    port: int
    auth: bool = True
    head: RayNode | None = None
    nodes: dict[str, RayNode] = field(default_factory=dict)
    started: int = 0

    @property
    def address(self) -> str:
        return f"{self.head_ip}:{self.port}"

    @property
    def head_ip(self) -> str:
        return f"127.0.0.{self.base}"

    def settings(self, **changes: object) -> dict[str, object]:
        """Of a server on the head's machine."""
        values: dict[str, object] = {
            "runtime": "ray",
            "ray_address": self.address,
            "ray_node_ip": self.head_ip,
            "ray_auth_token": TOKEN,
        }
        return values | changes

    def options(self, **changes: object) -> RayOptions:
        return RayOptions.of(Settings(**self.settings(**changes)))

    def start_head(self) -> None:
        words = ["--head", "--port", str(self.port), "--include-dashboard", "false"]
        self.head = self._start("head", self.head_ip, [*words, "--num-cpus", "0"])

    def start_node(self, name: str, *options: str, cpus: int = 4) -> RayNode:
        ip = f"127.0.0.{self.base + 1 + len(self.nodes)}"
        if name in self.nodes:
            ip = self.nodes[name].ip
        words = ["--address", self.address, "--num-cpus", str(cpus), *options]
        self.nodes[name] = self._start(name, ip, words)
        return self.nodes[name]

    def close(self) -> None:
        for node in [*self.nodes.values(), *([self.head] if self.head else [])]:
            node.signal(signal.SIGCONT)
            node.kill()
        shutil.rmtree(self.root, ignore_errors=True)

    def _start(self, name: str, ip: str, words: list[str]) -> RayNode:
        self.started += 1
        log = self.root / f"{name}.out"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [
                    *RAY,
                    "start",
                    "--block",
                    *words,
                    "--node-ip-address",
                    ip,
                    "--node-name",
                    name,
                    "--temp-dir",
                    str(self.root / "ray"),
                    "--min-worker-port",
                    str(10_000 + self.started * 200),
                    "--max-worker-port",
                    str(10_000 + self.started * 200 + 199),
                    "--disable-usage-stats",
                    "--include-log-monitor",
                    "false",
                    "--object-store-memory",
                    "80000000",
                ],
                env=self._environment(),
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        node = RayNode(name, ip, process, log)
        self._await_started(node)
        return node

    def _await_started(self, node: RayNode) -> None:
        deadline_s = time.monotonic() + START_LIMIT_S
        while b"--block" not in node.log.read_bytes():
            code = node.process.poll()
            assert code is None, f"{node.name} ended with {code}: {node.log.read_text()}"
            assert time.monotonic() < deadline_s, f"{node.name}: {node.log.read_text()}"
            time.sleep(0.05)

    def _environment(self) -> dict[str, str]:
        kept = {n: v for n, v in os.environ.items() if not n.startswith(("WEIGHBRIDGE_", "RAY_"))}
        auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
        return {
            **kept,
            **HEALTH,
            **(auth if self.auth else {"RAY_AUTH_MODE": "disabled"}),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_memory_monitor_refresh_ms": "0",
            "WEIGHBRIDGE_NODE_DIR": str(self.root / "node"),
        }


@contextmanager
def running_cluster(nodes: int, *, base: int = 20, auth: bool = True) -> Iterator[Machines]:
    """Nodes are started one after another: two at once race for names in Ray's session directory."""
    machines = Machines(Path(tempfile.mkdtemp(prefix="wr", dir="/tmp")), base, _free_port(), auth)
    machines.root.chmod(0o755)
    try:
        machines.start_head()
        for number in range(1, nodes + 1):
            labels = f"rack=r{number}"
            machines.start_node(f"n{number}", "--labels", labels, "--num-gpus", "2")
        yield machines
    finally:
        machines.close()


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
