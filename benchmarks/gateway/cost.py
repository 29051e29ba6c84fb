"""CPU, latency and memory of the gateway beside other proxies: one run, rounds interleaved, medians.

`make bench-gateway`. A peer that is not installed is left out and named in the notes.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.gateway import peers
from benchmarks.harness import Candidate, Result
from weighbridge.cli.demo.process import free_ports

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
SECONDS = float(os.environ.get("BENCH_SECONDS", "3"))
APART = os.environ.get("BENCH_APART", "") == "1"
"""Candidates have the first core, callers and engines the others: what a proxy costs when nobody takes its core."""
WARM_S = 1.0
CONNECTIONS = 64
STREAMS = 48
MANY_STREAMS = 2000
PAUSE_S = 0.005
MANY_PAUSE_S = 0.5
FILES_MAX = 16_384
HERE = Path(__file__).parent


def run() -> Result:
    samples: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    # Load, engines and peers inherit it.
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (FILES_MAX, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    )
    first, *others = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="wb-bench-") as name, ExitStack() as stack:
        directory = Path(name)
        if APART:
            os.sched_setaffinity(0, others)
            stack.callback(os.sched_setaffinity, 0, {first, *others})
        spaced = stack.enter_context(engines(PAUSE_S))
        directory.chmod(0o755)
        found, missing = _peers(directory, spaced)
        pids = {
            peer.name: stack.enter_context(peers.running(peer, directory)).pid for peer in found
        }
        for pid in pids.values() if APART else ():
            peers.pin(pid, first)
        for peer in found:
            load(peer.port, connections=8, stream=False, seconds=WARM_S)
        for number in range(ROUNDS):
            direct = load(spaced[0], connections=CONNECTIONS, stream=False, seconds=SECONDS)
            # Each round begins with another candidate, so that none always follows the same one.
            for peer in [*found[number % len(found) :], *found[: number % len(found)]]:
                _measure(peer, pids[peer.name], samples[peer.name], direct)
    samples["Weighbridge"]["rss_2000_streams_mib"] = [_many_streams()]
    figures = set.intersection(*(set(one) for one in samples.values()))
    ordered = [figure for figure in samples["Weighbridge"] if figure in figures]
    notes = [f"{peer.name}: {peer.does}" for peer in found]
    notes += [f"{name}: not installed" for name in missing]
    if APART:
        notes.append("Each candidate alone on one core, callers and engines on the others")
    notes.append(
        f"Weighbridge with {MANY_STREAMS} streams open at once: "
        f"{samples['Weighbridge']['rss_2000_streams_mib'][0]:.0f} MiB resident, all its processes"
    )
    return Result(
        name="gateway",
        title="Proxy, one worker or thread",
        command="make bench-gateway",
        candidates=[
            Candidate(name, {figure: one[figure] for figure in ordered})
            for name, one in samples.items()
        ],
        notes=notes,
    )


def _peers(directory: Path, ports: list[int]) -> tuple[list[peers.Peer], list[str]]:
    made = {
        "Weighbridge": peers.weighbridge(directory, ports),
        "compiled": peers.compiled(directory, ports),
        "nginx": peers.nginx(directory, ports),
        "HAProxy": peers.haproxy(directory, ports),
        "vllm-router": peers.router("vllm-router", ports),
        "sglang-router": peers.router("sglang-router", ports, "launch"),
        "uvloop": peers.bare(ports),
        "aiohttp": peers.aiohttp(directory, ports),
        "litellm": peers.litellm(directory, ports),
    }
    wanted = os.environ.get("BENCH_ONLY", ",".join(made)).split(",")
    found = [peer for name, peer in made.items() if peer is not None and name in wanted]
    return found, [name for name, peer in made.items() if peer is None]


def _measure(
    peer: peers.Peer, pid: int, samples: dict[str, list[float]], direct: dict[str, float]
) -> None:
    whole = load(peer.port, connections=CONNECTIONS, stream=False, seconds=SECONDS, pid=pid)
    stream = load(peer.port, connections=STREAMS, stream=True, seconds=SECONDS, pid=pid)
    samples["request_cpu_us"].append(whole["cpu_s"] * 1e6 / max(1, whole["answers"]))
    samples["requests_per_s"].append(whole["answers"] / whole["seconds"])
    samples["p50_ms"].append(whole["p50_ms"])
    samples["added_p50_ms"].append(whole["p50_ms"] - direct["p50_ms"])
    samples["p99_ms"].append(whole["p99_ms"])
    samples["chunk_cpu_us"].append(stream["cpu_s"] * 1e6 / max(1, stream["chunks"]))
    samples["chunk_delay_p50_ms"].append(stream["delay_p50_ms"])
    samples["first_chunk_p50_ms"].append(stream["first_p50_ms"])
    samples["errors"].append(whole["errors"] + stream["errors"])
    samples["rss_mib"].append(peers.resident_mib(pid))


def _many_streams() -> float:
    """Resident memory of all gateway processes while that many streams run."""
    with tempfile.TemporaryDirectory(prefix="wb-bench-") as name, ExitStack() as stack:
        ports = stack.enter_context(engines(MANY_PAUSE_S))
        peer = peers.weighbridge(Path(name), ports)
        process = stack.enter_context(peers.running(peer, Path(name)))
        load(peer.port, connections=8, stream=False, seconds=WARM_S)
        seen = load(peer.port, connections=MANY_STREAMS, stream=True, seconds=10.0, pid=process.pid)
        if seen["errors"] or not seen["chunks"]:
            raise RuntimeError(f"the streams did not run: {seen}")
        return seen["rss_mib"]


def load(
    port: int, *, connections: int, stream: bool, seconds: float, pid: int | None = None
) -> dict[str, float]:
    """What the callers saw; with the CPU time that `pid` and its children took meanwhile."""
    options = {
        "port": port,
        "connections": connections,
        "stream": stream,
        "seconds": seconds,
        "key": peers.KEY.format(7),
        "model": peers.MODEL.format(0),
    }
    command = [sys.executable, str(HERE / "load.py"), json.dumps(options)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        _line(process.stdout, "begin")
        before_s = peers.cpu_s(pid) if pid else 0.0
        _line(process.stdout, "end")
        after_s = peers.cpu_s(pid) if pid else 0.0
        resident = peers.resident_mib(pid) if pid else 0.0
        seen: dict[str, float] = json.loads(process.stdout.readline())
    return {**seen, "cpu_s": after_s - before_s, "rss_mib": resident}


def _line(lines: Iterator[str], wanted: str) -> None:
    said = next(lines, "").strip()
    if said != wanted:
        raise RuntimeError(f"the load said {said!r} for {wanted!r}")


@contextmanager
def engines(pause_s: float) -> Iterator[list[int]]:
    ports = free_ports(2)
    command: Sequence[str] = (
        *(sys.executable, str(HERE / "engine.py"), str(pause_s)),
        *(str(port) for port in ports),
    )
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        _line(process.stdout, "ready")
        try:
            yield ports
        finally:
            process.terminate()
