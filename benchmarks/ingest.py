"""Weights from S3 to disk, verified and durable: ours against other clients and a pipeline of C programs.

All candidates read one origin and are interleaved, round by round. `WEIGHBRIDGE_BENCH_FILES`, `_FILE_MIB`,
`_SMALL` and `_ROUNDS` make it smaller than the figures that are published.
"""

import filecmp
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.harness import Candidate, Result
from benchmarks.transfer.origin import BUCKET, Folder, Origin, running_origin

FILES = int(os.environ.get("WEIGHBRIDGE_BENCH_FILES", "8"))
FILE_MIB = int(os.environ.get("WEIGHBRIDGE_BENCH_FILE_MIB", "512"))
SMALL_FILES = int(os.environ.get("WEIGHBRIDGE_BENCH_SMALL", "2000"))
ROUNDS = int(os.environ.get("WEIGHBRIDGE_BENCH_ROUNDS", "5"))
RUN_S_MAX = 600
PIPE_RANGE_MIB = 64
PIPES = 8
PEERS = ("s5cmd", "boto3", "awscrt", "obstore")
PROGRAMS = Path(__file__).parent / "transfer"

Run = Callable[[str, str, str, list[str]], Mapping[str, float]]
"""Of url, folder, directory and names: wall_s, cpu_s and, where it can be told, rss_mib."""


def run() -> Result:
    python, missing = _peers()
    samples: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(
        lambda: defaultdict(list)
    )
    large = [f"{number}.bin" for number in range(FILES)]
    small = [f"{number:05}.bin" for number in range(SMALL_FILES)]
    folders = [Folder("large", large, FILE_MIB << 20), Folder("small", small, 2)]
    with running_origin(folders) as origin:
        os.environ.update(
            AWS_ACCESS_KEY_ID="a",
            AWS_SECRET_ACCESS_KEY="b",
            AWS_REGION="us-east-1",
            AWS_CA_BUNDLE=str(origin.ca_bundle),
        )
        candidates = _candidates(python, missing, origin)
        for number in range(ROUNDS):
            for kind, url, folder, names in (
                ("plain", origin.plain_url, "large", large),
                ("tls", origin.tls_url, "large", large),
                ("small", origin.plain_url, "small", small),
            ):
                for name, measured in _rotated(candidates, number):
                    if kind == "small" and name == "curl + dd":
                        continue
                    found = _measure(measured, url, folder, names, origin, check=number == 0)
                    _note(samples[name], kind, found)
                    print(f"{number} {kind:6} {name:12} {dict(found)}", flush=True)
    return Result(
        name="ingest",
        title="client",
        command="make bench-ingest",
        candidates=[Candidate(name, figures) for name, figures in samples.items()],
        notes=[
            (
                f"{FILES} files of {FILE_MIB} MiB, and {SMALL_FILES} files of 2 bytes, from nginx on the same "
                f"machine to its disk, fsync included; medians of {ROUNDS}; imports and starts of Python not timed"
            ),
            "ours verifies CRC64NVME and BLAKE3 of every byte; the others verify nothing",
            *(f"{name}: missing" for name in missing),
        ],
    )


def _note(figures: defaultdict[str, list[float]], kind: str, found: Mapping[str, float]) -> None:
    gib = FILES * FILE_MIB / 1024
    if kind == "small":
        figures["small files s"].append(found["wall_s"])
        return
    figures[f"{kind} GiB/s"].append(gib / found["wall_s"])
    figures[f"{kind} CPU s/GiB"].append(found["cpu_s"] / gib)
    if "rss_mib" in found:
        figures[f"{kind} RSS MiB"].append(found["rss_mib"])


def _candidates(python: Path | None, missing: list[str], origin: Origin) -> list[tuple[str, Run]]:
    ours = [sys.executable, str(PROGRAMS / "ours.py")]
    found: list[tuple[str, Run]] = [("weighbridge", lambda *a: _program(ours, *a))]
    for peer in ("boto3", "awscrt", "obstore"):
        if peer not in missing:
            command = [str(python), str(PROGRAMS / "peers.py"), peer]
            found.append((peer, lambda *a, command=command: _program(command, *a)))
    if python is not None and "s5cmd" not in missing:
        s5cmd = python.with_name("s5cmd")
        found.append(("s5cmd", lambda *a: _s5cmd(s5cmd, *a)))
    if shutil.which("curl"):
        found.append(("curl + dd", lambda *a: _pipeline(origin, *a)))
    return found


def _measure(
    measured: Run, url: str, folder: str, names: list[str], origin: Origin, *, check: bool
) -> Mapping[str, float]:
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as directory:
        found = measured(url, folder, directory, names)
        if check:
            for name in names:
                same = filecmp.cmp(origin.path(folder, name), Path(directory) / name, False)
                assert same, f"{name} differs"
    os.sync()
    time.sleep(0.5)
    return found


def _program(
    command: list[str], url: str, folder: str, directory: str, names: list[str]
) -> Mapping[str, float]:
    """One of ours in Python, that measures itself."""
    finished = subprocess.run(
        [*command, url, folder, directory, *names],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=RUN_S_MAX,
    )
    found: dict[str, float] = json.loads(finished.stdout.splitlines()[-1])
    return found


def _s5cmd(
    program: Path, url: str, folder: str, directory: str, names: list[str]
) -> Mapping[str, float]:
    commands = "".join(
        f"cp --concurrency 8 --part-size 16 s3://{BUCKET}/{folder}/{name} {directory}/{name}\n"
        for name in names
    )
    arguments = [str(program), "--no-verify-ssl", "--log", "error", "--endpoint-url", url, "run"]
    return _timed(arguments, commands, directory, names)


def _pipeline(
    origin: Origin, url: str, folder: str, directory: str, names: list[str]
) -> Mapping[str, float]:
    """Parallel ranged curl into O_DIRECT writes, nothing hashed: what the machine gives to C programs."""
    script = (
        f"curl -s --cacert {origin.ca_bundle} -r $2-$(($2 + {PIPE_RANGE_MIB << 20} - 1)) "
        f'"{url}/{BUCKET}/{folder}/$1" | dd of="{directory}/$1" bs=1M iflag=fullblock oflag=direct '
        "conv=notrunc status=none seek=$(($2 / 1048576))"
    )
    for name in names:
        subprocess.run(["fallocate", "-l", f"{FILE_MIB}M", f"{directory}/{name}"], check=True)
    ranges = "".join(
        f"{name} {start}\n"
        for name in names
        for start in range(0, FILE_MIB << 20, PIPE_RANGE_MIB << 20)
    )
    arguments = ["xargs", "-P", str(PIPES), "-L1", "sh", "-c", script, "sh"]
    return _timed(arguments, ranges, directory, names)


def _timed(
    arguments: list[str], text: str, directory: str, names: list[str]
) -> Mapping[str, float]:
    """Of a program and its children, and of the fsync of what it wrote."""
    before, began = os.times(), time.perf_counter()
    subprocess.run(arguments, input=text, text=True, check=True, timeout=RUN_S_MAX)
    for name in names:
        descriptor = os.open(Path(directory) / name, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    wall_s, after = time.perf_counter() - began, os.times()
    cpu_s = sum(after[:4]) - sum(before[:4])
    return {"wall_s": wall_s, "cpu_s": cpu_s}


def _rotated(candidates: list[tuple[str, Run]], by: int) -> list[tuple[str, Run]]:
    at = by % len(candidates)
    return candidates[at:] + candidates[:at]


def _peers() -> tuple[Path | None, list[str]]:
    """A virtual environment of the peers in the user's cache, made once; and the peers that could not be had."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    venv = cache / "weighbridge" / "bench-ingest"
    python = venv / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    missing = []
    for peer in PEERS:
        done = subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", peer],
            check=False,
            capture_output=True,
        )
        if done.returncode != 0:
            missing.append(peer)
    return python, missing
