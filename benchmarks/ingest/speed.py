"""Weights from S3 to disk, verified and durable: ours against other clients and a pipeline of C programs.

All candidates read one origin and are interleaved, round by round. `BENCH_FILES`, `BENCH_FILE_MIB`,
`BENCH_SMALL`, `BENCH_ROUNDS` and `BENCH_MINUTES` make it smaller than the figures that are published.
"""

import filecmp
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import Candidate, Fact, Result
from benchmarks.ingest import moved, verdict
from benchmarks.ingest.origin import BUCKET, Folder, Origin, running_origin

FILES = int(os.environ.get("BENCH_FILES", "8"))
FILE_MIB = int(os.environ.get("BENCH_FILE_MIB", "512"))
SMALL_FILES = int(os.environ.get("BENCH_SMALL", "3000"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
ROUNDS_S_MAX = 60 * float(os.environ.get("BENCH_MINUTES", "10"))
"""No further round begins that would end after this; verdict and moves take a minute more."""
RUN_S_MAX = 600
INSTALL_S_MAX = 120
SETTLE_S = 0.3
PIPE_RANGE_MIB = 64
PIPES = 8
OURS = "weighbridge"
PIPELINE = "curl + dd"
PEERS = ("s5cmd", "boto3", "awscrt", "obstore")
PROGRAMS = Path(__file__).parent

Samples = dict[str, dict[str, list[float]]]
"""Of each candidate: figures by name, a sample per round."""
Run = Callable[[str, str, str, list[str]], Mapping[str, float]]
"""Of url, folder, directory and names: wall_s, cpu_s and, where it can be told, rss_mib."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What is fetched: files of a folder, by one of the origin's addresses."""

    name: str
    url: str
    folder: str
    names: list[str]


def run() -> Result:
    python, missing = _peers()
    large = [f"{number}.bin" for number in range(FILES)]
    small = [f"{number:05}.bin" for number in range(SMALL_FILES)]
    folders = [Folder("large", large, FILE_MIB << 20), Folder("small", small, 2)]
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as made:
        with running_origin(folders) as origin:
            os.environ.update(
                AWS_ACCESS_KEY_ID="a",
                AWS_SECRET_ACCESS_KEY="b",
                AWS_REGION="us-east-1",
                AWS_CA_BUNDLE=str(origin.ca_bundle),
            )
            kinds = (
                Kind("plain", origin.plain_url, "large", large),
                Kind("tls", origin.tls_url, "large", large[: max(1, FILES // 2)]),
                Kind("small", origin.plain_url, "small", small),
            )
            samples = _rounds(_candidates(python, missing, origin), kinds, origin, Path(made))
        moves = moved.measure(Path(made), FILE_MIB << 20)
    rounds = len(samples[OURS]["plain s"])
    return Result(
        name="ingest",
        title="client",
        command="make bench-ingest",
        candidates=[Candidate(name, _figures(found, samples)) for name, found in samples.items()],
        notes=[
            (
                f"{FILES} files of {FILE_MIB} MiB ({len(kinds[1].names)} of them over TLS), and {SMALL_FILES} files "
                "of 2 bytes, from nginx on the same machine to its disk, fsync included; "
                f"medians of {rounds}; imports and starts of Python not timed"
            ),
            "ours verifies CRC64NVME and BLAKE3 of every byte; the others verify nothing",
            "slower: the candidate's time by ours of the same round",
            f"moves: 3 versions of {moved.SHARDS} shards of {FILE_MIB} MiB, measured once",
            *(f"{name}: missing" for name in missing),
        ],
        facts=[*_facts(samples, moves), *_verdicts()],
    )


def _rounds(
    candidates: list[tuple[str, Run]], kinds: Sequence[Kind], origin: Origin, made: Path
) -> Samples:
    """All candidates of all kinds, round by round, until ROUNDS or the time is up."""
    samples: Samples = {name: defaultdict(list) for name, _ in candidates}
    began = time.monotonic()
    for number in range(ROUNDS):
        spent_s = time.monotonic() - began
        if number and spent_s * (number + 1) / number > ROUNDS_S_MAX:
            break
        for kind in kinds:
            for name, measured in _rotated(candidates, number):
                if kind.name == "small" and name == PIPELINE:
                    continue
                found = _measure(measured, kind, origin, made, check=number == 0)
                _note(samples[name], kind, found)
                print(f"{number} {kind.name:6} {name:12} {dict(found)}", flush=True)
    return samples


def _note(figures: dict[str, list[float]], kind: Kind, found: Mapping[str, float]) -> None:
    figures[f"{kind.name} s"].append(found["wall_s"])
    if kind.name == "small":
        return
    gib = len(kind.names) * FILE_MIB / 1024
    figures[f"{kind.name} GiB/s"].append(gib / found["wall_s"])
    figures[f"{kind.name} CPU s/GiB"].append(found["cpu_s"] / gib)
    if "rss_mib" in found:
        figures["RSS MiB"].append(found["rss_mib"])


def _figures(found: Mapping[str, list[float]], samples: Samples) -> Mapping[str, Sequence[float]]:
    """What the table shows of a candidate."""
    shown: dict[str, Sequence[float]] = {}
    for kind in ("plain", "tls"):
        shown[f"{kind} GiB/s"] = found[f"{kind} GiB/s"]
        shown[f"{kind} × slower"] = _ratios(found, samples, kind)
        shown[f"{kind} CPU s/GiB"] = found[f"{kind} CPU s/GiB"]
    if found["small s"]:
        shown[f"{SMALL_FILES} small files s"] = found["small s"]
    if found["RSS MiB"]:
        shown["RSS MiB"] = found["RSS MiB"]
    return shown


def _ratios(found: Mapping[str, list[float]], samples: Samples, kind: str) -> list[float]:
    ours = samples[OURS][f"{kind} s"]
    return [theirs / own for theirs, own in zip(found[f"{kind} s"], ours, strict=True)]


def _facts(samples: Samples, moves: Mapping[str, float]) -> list[Fact]:
    """What is promised, as far as this run could measure it."""
    goals = {"s5cmd": "≥ 1.5", "boto3": "≥ 3", "obstore": "> 1", "awscrt": "> 1", PIPELINE: "≥ 0.8"}
    facts = [
        Fact(f"speed by that of {peer}, {kind}", "×", _ratios(samples[peer], samples, kind), goal)
        for kind in ("plain", "tls")
        for peer, goal in goals.items()
        if peer in samples
    ]
    ours = samples[OURS]
    return [
        *facts,
        Fact("CPU per GiB, both checksums, plain", "s", ours["plain CPU s/GiB"], "≤ 0.8"),
        Fact(f"{SMALL_FILES} files of two bytes", "s", ours["small s"], "≤ 5"),
        Fact("memory, whole process", "MiB", ours["RSS MiB"], "≤ 256"),
        Fact("second version, 6 of 8 shards shared: bytes moved", "%", [moves["second"]], "≤ 30"),
        Fact("resumed after kill -9 at 50 %: bytes moved", "%", [moves["resumed"]], "≤ 52"),
    ]


def _verdicts() -> list[Fact]:
    facts = []
    for one in verdict.run().candidates:
        read = statistics.median(one.samples["megabytes_read"])
        facts.append(
            Fact(
                f"verdict on {one.name}, {read:.0f} MB read",
                "s",
                one.samples["seconds"],
                "< 2 on loopback, < 20 MB",
            )
        )
    return facts


def _candidates(python: Path, missing: list[str], origin: Origin) -> list[tuple[str, Run]]:
    ours = [sys.executable, str(PROGRAMS / "ours.py")]
    found: list[tuple[str, Run]] = [(OURS, lambda *a: _program(ours, *a))]
    for peer in ("boto3", "awscrt", "obstore"):
        if peer not in missing:
            command = [str(python), str(PROGRAMS / "peers.py"), peer]
            found.append((peer, lambda *a, command=command: _program(command, *a)))
    if "s5cmd" not in missing:
        s5cmd = python.with_name("s5cmd")
        found.append(("s5cmd", lambda *a: _s5cmd(s5cmd, *a)))
    if shutil.which("curl"):
        found.append((PIPELINE, lambda *a: _pipeline(origin, *a)))
    return found


def _measure(
    measured: Run, kind: Kind, origin: Origin, made: Path, *, check: bool
) -> Mapping[str, float]:
    directory = Path(tempfile.mkdtemp(dir=made))
    try:
        found = measured(kind.url, kind.folder, str(directory), kind.names)
        for name in kind.names if check else ():
            same = filecmp.cmp(origin.path(kind.folder, name), directory / name, False)
            assert same, f"{name} differs"
    finally:
        # Thousands of inodes just deleted slow down whoever makes new ones on ext4: those go at the end.
        if kind.name != "small":
            shutil.rmtree(directory)
    os.sync()
    time.sleep(SETTLE_S)
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
    return {"wall_s": wall_s, "cpu_s": sum(after[:4]) - sum(before[:4])}


def _rotated(candidates: list[tuple[str, Run]], by: int) -> list[tuple[str, Run]]:
    at = by % len(candidates)
    return candidates[at:] + candidates[:at]


def _peers() -> tuple[Path, list[str]]:
    """A virtual environment of the peers in the user's cache, made once; and the peers that could not be had."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    python = cache / "weighbridge" / "bench-ingest" / "bin" / "python"
    if not python.exists():
        _tried([sys.executable, "-m", "venv", str(python.parents[1])])
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    return python, [peer for peer in PEERS if not _tried([*install, peer])]


def _tried(command: list[str]) -> bool:
    try:
        done = subprocess.run(command, check=False, capture_output=True, timeout=INSTALL_S_MAX)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
