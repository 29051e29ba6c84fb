"""The candidates of the gateway benchmark: ours, and what of the others is installed on this machine."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from weighbridge.cli.demo.process import free_ports
from weighbridge.routing.files import write_snapshot
from weighbridge.routing.limits import UsageLimits
from weighbridge.routing.model import EndpointRoute, KeyEntry, KeyTable, ReplicaRoute, RouteTable
from weighbridge.routing.tokens import key_digest, load_pepper
from weighbridge.settings import DataDir

KEYS = 1000
ENDPOINTS = 400
KEY = "wb_inf_bench_{:06d}abcdefghijklmnopqrstuv"
MODEL = "bench-{}"
LIMITS = UsageLimits(requests_minute=10**9, tokens_minute=10**12)
"""Of each key and each endpoint; never reached, always counted."""
START_S = 90.0
ROOT = Path(__file__).parents[2]
SOURCE = str(ROOT / "src")
COMPILED = str(ROOT / ".compiled")
"""What `make compiled` makes."""
PEERS_DIR = "BENCH_PEERS"
"""Environment variable: a virtual environment's bin/ with vllm-router, sglang-router, litellm."""


@dataclass(frozen=True, slots=True)
class Peer:
    """`does` says in words what it does of our gateway's work."""

    name: str
    does: str
    port: int
    command: tuple[str, ...]
    environment: Mapping[str, str]


def weighbridge(
    directory: Path, engines: list[int], *, name: str = "Weighbridge", source: str = SOURCE
) -> Peer:
    paths = _snapshots(directory, engines)
    (port, probe_port) = free_ports(2)
    command = (
        *(sys.executable, "-m", "weighbridge.gateway", "--data-dir", str(paths.root)),
        *("--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--probe-host", "127.0.0.1", "--probe-port", str(probe_port)),
    )
    does = "keys, checks, limits, least load, rewrites, usage, a log line per request"
    return Peer(name, does, port, command, {"PYTHONPATH": source})


def compiled(directory: Path, engines: list[int]) -> Peer | None:
    if not Path(COMPILED).is_dir():
        return None
    return weighbridge(
        directory / "compiled", engines, name="Weighbridge, compiled", source=COMPILED
    )


def bare(engines: list[int]) -> Peer:
    (port,) = free_ports(1)
    program = str(Path(__file__).with_name("bare_relay.py"))
    command = (sys.executable, program, str(port), *(str(engine) for engine in engines[:2]))
    return Peer("uvloop, bytes unread", "nothing", port, command, {})


def aiohttp(directory: Path, engines: list[int]) -> Peer:
    paths = _snapshots(directory / "aiohttp", engines)
    (port,) = free_ports(1)
    program = str(Path(__file__).with_name("aiohttp_variant.py"))
    command = (sys.executable, program, str(paths.root), str(port))
    does = "keys, model lookup, least load, rewrites of the model's name"
    return Peer("aiohttp variant", does, port, command, {"PYTHONPATH": SOURCE})


def _snapshots(directory: Path, engines: list[int]) -> DataDir:
    paths = DataDir(directory / "data")
    paths.run.mkdir(parents=True, mode=0o700)
    pepper = load_pepper(paths.secrets)
    write_snapshot(paths.routes_file, RouteTable(1, tuple(_endpoints(engines))))
    keys = (
        KeyEntry(
            key_digest(pepper, KEY.format(number)).hex(),
            f"key_{number}",
            "org_bench",
            limits=LIMITS,
        )
        for number in range(KEYS)
    )
    write_snapshot(paths.keys_file, KeyTable(1, tuple(keys)))
    return paths


def _endpoints(engines: list[int]) -> Iterator[EndpointRoute]:
    for number in range(ENDPOINTS):
        replicas = tuple(
            ReplicaRoute(
                replica_id=f"r{number}-{engine}",
                slot=2 * number + place,
                url=f"http://127.0.0.1:{engine}",
                incarnation="i1",
                served_name=f"r{number}-{engine}.0123456789abcdef",
                digest="00",
                version=1,
                fingerprint="fp_0123456789abcdef0123-v1",
            )
            for place, engine in enumerate(engines[:2])
        )
        yield EndpointRoute(
            endpoint_id=MODEL.format(number),
            org_id="org_bench",
            org_name="bench",
            arch_id="tiny",
            created_unix_s=1736700000,
            deployed=True,
            rolling_out=False,
            replicas=replicas,
            in_flight_max=100_000,
            limits=LIMITS,
        )


def haproxy(directory: Path, engines: list[int]) -> Peer | None:
    program = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
    if program is None:
        return None
    (port,) = free_ports(1)
    keys, models = directory / "keys.map", directory / "models.map"
    keys.write_text("".join(f"{KEY.format(n)} org_bench\n" for n in range(KEYS)))
    models.write_text("".join(f"{MODEL.format(n)} engines\n" for n in range(ENDPOINTS)))
    servers = "\n".join(f"  server e{n} 127.0.0.1:{engine}" for n, engine in enumerate(engines[:2]))
    config = directory / "haproxy.cfg"
    config.write_text(
        f"""global
  nbthread 1
  maxconn 8192
defaults
  mode http
  timeout connect 2s
  timeout client 120s
  timeout server 120s
  option http-buffer-request
  option http-no-delay
  http-reuse always
frontend front
  bind 127.0.0.1:{port}
  http-request set-var(txn.key) req.hdr(authorization),regsub(^Bearer\\ ,,)
  http-request set-var(txn.org) var(txn.key),map({keys})
  http-request deny deny_status 401 unless {{ var(txn.org) -m found }}
  http-request set-var(txn.pool) req.body,json_query('$.model'),map({models})
  http-request deny deny_status 404 unless {{ var(txn.pool) -m found }}
  use_backend %[var(txn.pool)]
backend engines
  balance leastconn
{servers}
"""
    )
    does = "keys, model lookup, least load"
    return Peer("HAProxy", does, port, (program, "-db", "-f", str(config)), {})


def nginx(directory: Path, engines: list[int]) -> Peer | None:
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        return None
    (port,) = free_ports(1)
    servers = "".join(f"server 127.0.0.1:{engine};" for engine in engines[:2])
    config = directory / "nginx.conf"
    config.write_text(
        f"""worker_processes 1; daemon off; pid {directory}/nginx.pid; error_log /dev/null;
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 100000000;
  client_body_temp_path {directory}/b; proxy_temp_path {directory}/p; fastcgi_temp_path {directory}/f;
  uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
  upstream engines {{ least_conn; {servers} keepalive 512; keepalive_requests 100000000; }}
  server {{ listen 127.0.0.1:{port} backlog=4096;
    location / {{ proxy_pass http://engines; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; }} }}
}}
"""
    )
    return Peer("nginx, plain", "least load", port, (program, "-c", str(config)), {})


def router(name: str, engines: list[int], *subcommand: str) -> Peer | None:
    program = shutil.which(name, path=os.environ.get(PEERS_DIR)) or shutil.which(name)
    if program is None:
        return None
    port, metrics = free_ports(2)
    urls = [f"http://127.0.0.1:{engine}" for engine in engines[:2]]
    command = (
        *(program, *subcommand, "--host", "127.0.0.1", "--port", str(port)),
        *("--policy", "round_robin", "--prometheus-port", str(metrics), "--worker-urls", *urls),
    )
    return Peer(name, "round robin", port, command, {"TOKIO_WORKER_THREADS": "1"})


def litellm(directory: Path, engines: list[int]) -> Peer | None:
    program = shutil.which("litellm", path=os.environ.get(PEERS_DIR)) or shutil.which("litellm")
    if program is None:
        return None
    (port,) = free_ports(1)
    config = directory / "litellm.yaml"
    lines = [
        f"- {{model_name: {MODEL.format(0)}, litellm_params: {{model: openai/{MODEL.format(0)}, "
        f"api_base: 'http://127.0.0.1:{engine}/v1', api_key: none}}}}"
        for engine in engines[:2]
    ]
    config.write_text("model_list:\n" + "\n".join(lines) + "\n")
    command = (program, "--config", str(config), "--host", "127.0.0.1", "--port", str(port))
    environment = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_MASTER_KEY": KEY.format(7),
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    }
    return Peer("litellm", "one key, rewrites, usage", port, command, environment)


@contextmanager
def running(peer: Peer, directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Up and listening; its output goes to a file in `directory`."""
    output = directory / f"{peer.name.split(',')[0]}.log"
    with output.open("ab") as file:
        process = subprocess.Popen(
            peer.command,
            stdout=file,
            stderr=file,
            env={**os.environ, **peer.environment},
        )
    try:
        _await_port(peer.port, process, output)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_port(port: int, process: subprocess.Popen[bytes], output: Path) -> None:
    end_s = time.monotonic() + START_S
    while time.monotonic() < end_s and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"not up within {START_S} s: {output.read_text()[-2000:]}")


def tree(pid: int) -> list[int]:
    """The process and its descendants."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += tree(int(child))
    return found


def pin(pid: int, core: int) -> None:
    """All threads of the process tree to one core."""
    for one in tree(pid):
        for thread in Path(f"/proc/{one}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {core})


def cpu_s(pid: int) -> float:
    """User and system time of the process tree so far, to the nanosecond: ticks of /proc are a tenth of a round."""
    return sum(time.clock_gettime(_cpu_clock(one)) for one in tree(pid))


def _cpu_clock(pid: int) -> int:
    """The id of a process's CPU clock, as clock_getcpuclockid(3) makes it on Linux."""
    return (~pid << 3) | 2


def resident_mib(pid: int) -> float:
    pages = sum(int(Path(f"/proc/{one}/statm").read_text().split()[1]) for one in tree(pid))
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
