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

from weighbridge.runtimes.processes import child_pids, find_marked
from weighbridge.runtimes.ray.options import RayOptions
from weighbridge.settings import Settings

TOKEN = "a-token-of-the-test-cluster"
RAY = (sys.executable, "-c", "from ray.scripts.scripts import main; main()")
START_LIMIT_S = 60.0
LANE = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
"""Which of the test processes this is: each has loopback addresses and ports of its own."""
LANE_ADDRESSES = 100
LANE_PORTS = 8_000
NODE_PORTS = 200
HEALTH = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_initial_delay_ms": "2000",
}


@dataclass
class RayNode:
    """`ray start --block` and what has come of it; `directory` is where its engines' files go."""

    name: str
    ip: str
    process: subprocess.Popen[bytes]
    log: Path
    directory: Path

    def tree(self) -> list[int]:
        """Every process of the node; shims have left the tree of the others, and are found by their mark."""
        marked = [process.identity.pid for process in find_marked(self.directory / "run")]
        return [*self._family(), *marked]

    def raylet_signal(self, number: signal.Signals) -> None:
        """To the process by which the cluster knows whether the node lives; the others go on."""
        os.kill(self._raylet(), number)

    def _raylet(self) -> int:
        commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in self._family()}
        (found,) = [
            pid for pid, text in commands.items() if text.split(b"\0")[0].endswith(b"/raylet")
        ]
        return found

    def _family(self) -> list[int]:
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
        """As if the machine lost its power."""
        self.signal(signal.SIGKILL)
        self.process.wait()


@dataclass
class Machines:
    """A head on 127.0.0.<base> that runs no replicas, and nodes beside it."""

    root: Path
    base: int
    port: int
    lasting: bool = False
    head: RayNode | None = None
    nodes: dict[str, RayNode] = field(default_factory=dict)
    started: int = 0
    weights_port: int = 0

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
            "weights_port": self.weights_port,
        }
        return values | changes

    def options(self, **changes: object) -> RayOptions:
        return RayOptions.of(Settings(**self.settings(**changes)))

    def start_head(self) -> None:
        # Ray takes a second start on one machine for a mistake.
        (self.root / "ray" / "ray_current_cluster").unlink(missing_ok=True)
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
        ports = 10_000 + LANE * LANE_PORTS + self.started * NODE_PORTS
        log = self.root / f"{name}.out"
        with log.open("wb") as output:
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
                    str(ports),
                    "--max-worker-port",
                    str(ports + NODE_PORTS - 1),
                    "--disable-usage-stats",
                    "--include-log-monitor",
                    "false",
                    "--object-store-memory",
                    "80000000",
                ],
                env=self._environment(self.root / "nodes" / name),
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        node = RayNode(name, ip, process, log, self.root / "nodes" / name)
        self._await_started(node)
        return node

    def _await_started(self, node: RayNode) -> None:
        deadline_s = time.monotonic() + START_LIMIT_S
        while b"--block" not in node.log.read_bytes():
            code = node.process.poll()
            assert code is None, f"{node.name} ended with {code}: {node.log.read_text()}"
            assert time.monotonic() < deadline_s, f"{node.name}: {node.log.read_text()}"
            time.sleep(0.05)

    def _environment(self, directory: Path) -> dict[str, str]:
        kept = {n: v for n, v in os.environ.items() if not n.startswith(("WEIGHBRIDGE_", "RAY_"))}
        auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
        lasts = {
            "RAY_gcs_storage": "rocksdb",
            "RAY_gcs_storage_path": str(self.root / "gcs"),
            "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
        }
        return {
            **kept,
            **HEALTH,
            **auth,
            **(lasts if self.lasting else {}),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_memory_monitor_refresh_ms": "0",
            "WEIGHBRIDGE_NODE_DIR": str(directory),
        }


@contextmanager
def running_cluster(nodes: int, *, base: int = 20, lasting: bool = False) -> Iterator[Machines]:
    """Nodes are started one after another: two at once race for names in Ray's session directory."""
    machines = Machines(
        Path(tempfile.mkdtemp(prefix="wr", dir="/tmp")),
        base + LANE * LANE_ADDRESSES,
        _free_port(),
        lasting,
    )
    machines.weights_port = _free_port()
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
