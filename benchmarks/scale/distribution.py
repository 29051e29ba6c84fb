"""A version to three nodes at once from the weight server, beside plain copies of the same files; all on loopback.

Nodes are three processes with a cache directory each, on the disk of the server. Each run begins with nothing on
the nodes, and ends with everything fsynced; the store's files are in the page cache, as they are just after a sync.
"""

import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import structlog

from benchmarks.harness import Candidate, Result
from weighbridge.weights.digest import content_digest, file_digest
from weighbridge.weights.filesystem import FilesystemStore
from weighbridge.weights.manifest import MANIFEST_FILE, FileEntry, Manifest
from weighbridge.weights.node.pull import Pull
from weighbridge.weights.node.puller import NodePuller
from weighbridge.weights.node.source import WeightSource
from weighbridge.weights.served.server import WeightServer
from weighbridge.weights.served.tokens import weights_token

RUNS = 5
NODES = 3
FILES = 4
FILE_BYTES = 64 * 1024 * 1024
MIB = 1024 * 1024
PEPPER = b"benchmark"
READY = "ready"
ROOT = Path(__file__).parents[2]
PROGRAM = (sys.executable, "-m", "benchmarks.scale.distribution")

Way = Callable[["Stage", Sequence[Path]], "Cost"]


@dataclass(frozen=True, slots=True)
class Cost:
    """Of all nodes together; the CPU is theirs alone."""

    seconds: float
    cpu_s: float


class Stage:
    """The store, its server as a process, and what `cp` copies: the same files in one folder."""

    def __init__(self, root: Path) -> None:
        self.store_dir = root / "store"
        store = FilesystemStore(self.store_dir)
        entries = []
        for number in range(FILES):
            content = os.urandom(MIB) * (FILE_BYTES // MIB)
            staged = store.staging_file("new")
            staged.write_bytes(content)
            digest = content_digest(content)
            store.publish_blob(staged, digest)
            entries.append(FileEntry(f"model-{number}.safetensors", len(content), digest))
        self.manifest = Manifest.of(entries)
        store.publish(self.manifest)
        self.folder = store.version_dir(self.manifest.digest)
        self.url = ""
        self.server_pid = 0

    @property
    def token(self) -> str:
        return weights_token(PEPPER, self.manifest.digest, int(time.time()) + 3600)

    def server_cpu_s(self) -> float:
        """Of the server's process so far."""
        fields = Path(f"/proc/{self.server_pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def serving(stage: Stage) -> Iterator[None]:
    process = subprocess.Popen(
        [*PROGRAM, "serve", str(stage.store_dir)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    stage.server_pid = process.pid
    stage.url = f"http://127.0.0.1:{int(process.stdout.readline())}"
    try:
        yield
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


def pull_all(stage: Stage, nodes: Sequence[Path]) -> Cost:
    """From the moment at which all nodes may begin until the last one has the version, whole and verified."""
    words = (stage.url, stage.token, stage.manifest.digest)
    return _go([_prepared("pull", str(node), *words) for node in nodes])


def copy_one_after_another(stage: Stage, nodes: Sequence[Path]) -> Cost:
    began_s, before_s = time.monotonic(), _children_cpu_s()
    for node in nodes:
        subprocess.run(_copy(stage, node), check=True)
    return Cost(time.monotonic() - began_s, _children_cpu_s() - before_s)


def copy_at_once(stage: Stage, nodes: Sequence[Path]) -> Cost:
    began_s, before_s = time.monotonic(), _children_cpu_s()
    processes = [subprocess.Popen(_copy(stage, node)) for node in nodes]
    assert [process.wait() for process in processes] == [0] * len(nodes)
    return Cost(time.monotonic() - began_s, _children_cpu_s() - before_s)


def copy_and_verify(stage: Stage, nodes: Sequence[Path]) -> Cost:
    """What a copy needs before an engine may load it: each file read again and hashed."""
    hashing = [_prepared("verify", str(node)) for node in nodes]
    copied, hashed = copy_at_once(stage, nodes), _go(hashing)
    return Cost(copied.seconds + hashed.seconds, copied.cpu_s + hashed.cpu_s)


def _copy(stage: Stage, node: Path) -> list[str]:
    return ["sh", "-c", 'cp -r "$0" "$1" && sync -f "$1"', str(stage.folder), str(node)]


def _prepared(*words: str) -> "subprocess.Popen[str]":
    """Everything is imported; it waits for the end of its input."""
    process = subprocess.Popen(
        [*PROGRAM, *words], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == f"{READY}\n"
    return process


def _go(processes: Sequence["subprocess.Popen[str]"]) -> Cost:
    began_s = time.monotonic()
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
    for process in processes:
        assert process.wait() == 0
    seconds, cpu_s = time.monotonic() - began_s, 0.0
    for process in processes:
        assert process.stdout is not None
        cpu_s += float(process.stdout.read())
        process.stdout.close()
    return Cost(seconds, cpu_s)


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


WAYS: Mapping[str, Way] = {
    "weight server, nodes at once": pull_all,
    "`cp`, one after another": copy_one_after_another,
    "`cp`, at once": copy_at_once,
    "`cp`, at once, then hashed": copy_and_verify,
}


def run() -> Result:
    samples: dict[str, dict[str, list[float]]] = {name: {} for name in WAYS}
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=ROOT) as directory:
        stage = Stage(Path(directory))
        with serving(stage):
            names = list(WAYS)
            for turn in range(RUNS):
                for name in names[turn % len(names) :] + names[: turn % len(names)]:
                    _measure(stage, Path(directory), WAYS[name], samples[name])
    gib = stage.manifest.size_bytes / 2**30
    return Result(
        "distribution",
        f"a version of {gib:.2f} GiB in {FILES} files to {NODES} nodes",
        "python -m benchmarks distribution",
        [Candidate(name, figures) for name, figures in samples.items()],
        notes=(
            (
                "Server and nodes are processes of one machine, over loopback, onto one disk: no network, few cores "
                "for all. What is compared is the work of each way, not what a cluster's network would give."
            ),
            "Every way ends with everything on the disk (fsync, or sync -f). The nodes hash what comes; cp does not.",
            "The store's files are in the page cache.",
        ),
    )


def _measure(stage: Stage, root: Path, way: Way, figures: dict[str, list[float]]) -> None:
    nodes = [root / f"node-{number}" for number in range(NODES)]
    server_before_s = stage.server_cpu_s()
    cost, server_s = way(stage, nodes), stage.server_cpu_s()
    if way is pull_all:
        for node in nodes:
            path = node / "store/versions" / stage.manifest.digest
            assert Manifest.decode((path / MANIFEST_FILE).read_bytes()) == stage.manifest
    for node in nodes:
        shutil.rmtree(node)
    subprocess.run(["sync", "-f", str(root)], check=True)
    gib = NODES * stage.manifest.size_bytes / 2**30
    found = {
        "seconds": cost.seconds,
        "GiB_per_s_in_all": gib / cost.seconds,
        "node_CPU_s_per_GiB": cost.cpu_s / gib,
        "server_CPU_s_per_GiB": (server_s - server_before_s) / gib,
    }
    for name, value in found.items():
        if way is pull_all or not name.startswith("server"):
            figures.setdefault(name, []).append(value)


def _serve(store_dir: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    server = WeightServer(FilesystemStore(store_dir), PEPPER, listener)
    Thread(target=server.serve, daemon=True).start()
    print(listener.getsockname()[1], flush=True)
    sys.stdin.read()
    server.close()


def _pull(node: Path, url: str, token: str, digest: str) -> None:
    puller = NodePuller(node)
    pull = Pull(digest, 0, WeightSource(url, token, free_min_share=0.0))
    with Path(os.devnull).open("w") as nowhere:
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(nowhere))
        with _counted():
            puller.bring(pull)


def _verify(node: Path) -> None:
    with _counted():
        entries = Manifest.decode((node / MANIFEST_FILE).read_bytes()).files
        assert all(file_digest(node / entry.path) == entry.digest for entry in entries)


@contextmanager
def _counted() -> Iterator[None]:
    """Begins when it is told to, and tells what CPU it took."""
    print(READY, flush=True)
    sys.stdin.read()
    before_s = time.process_time()
    yield
    print(time.process_time() - before_s)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", store]:
            _serve(Path(store))
        case ["pull", node, url, token, digest]:
            _pull(Path(node), url, token, digest)
        case ["verify", node]:
            _verify(Path(node))
