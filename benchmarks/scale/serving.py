"""The api of a fleet under load: the real api process, a controller that leads, and paced callers."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import text

from benchmarks.harness import Candidate, Fact, Result
from benchmarks.scale.api import (
    KINDS,
    LASTS_S,
    RATE,
    RATE_USUAL,
    WARM_S,
    Callers,
    Seen,
    paced,
)
from benchmarks.scale.counting import memory_mib, process_cpu_ms
from benchmarks.scale.fleet import ORGS, Fleet, fill
from weighbridge.accounts import service as accounts
from weighbridge.accounts.model import KeyKind
from weighbridge.clock import Clock
from weighbridge.routing.tokens import load_pepper
from weighbridge.server.services import accepts_unix
from weighbridge.settings import DataDir
from weighbridge.storage.database import Database

COMMAND = "python -m benchmarks scale"
RUNS = 3
START_LIMIT_S = 60.0


async def measure(url: str, postgres: Path, data: Path, fleet: Fleet) -> Result:
    database = Database(url)
    runs: list[Seen] = []
    try:
        await fill(url, fleet)
        keys = await _keys(database, DataDir(data).secrets)
        given = {"url": url, "postgres": str(postgres), "data": str(data), "lead": True}
        with _child([*_module("benchmarks.scale.controller"), _json(given, fleet)]) as leader:
            assert leader.stdout is not None
            assert "leads" in leader.stdout.readline()
            command = [
                *_module("weighbridge.cli.main"),
                "serve",
                "--roles",
                "api",
                "--name",
                "api-1",
            ]
            env = {"WEIGHBRIDGE_DATABASE_URL": url, "WEIGHBRIDGE_DATA_DIR": str(data)}
            with _child(command, **env) as api:
                socket = DataDir(data).api_socket("api-1")
                _wait_for(socket, api)
                callers = Callers(keys, fleet.endpoints, seed=1)
                await paced(socket, callers, WARM_S)
                cpu_ms = -process_cpu_ms(api.pid)
                runs += [await paced(socket, callers, LASTS_S) for _ in range(RUNS)]
                cpu_ms += process_cpu_ms(api.pid)
                memory = memory_mib(api.pid)[0]
                api.terminate()
            told, _ = leader.communicate(timeout=60)
        shares = json.loads(told.splitlines()[-1])
        async with database.begin() as tx:
            query = text("SELECT id FROM deployments WHERE created_at > now() - interval '1 hour'")
            kept = set((await tx.execute(query)).scalars())
    finally:
        await database.close()
    refused = [words for run in runs for words in run.refused]
    assert not refused, f"{len(refused)} refused: {refused[:3]}"
    assert {one for run in runs for one in run.deployed} <= kept
    return _result(fleet, runs, [*shares.values(), memory, cpu_ms])


def _result(fleet: Fleet, runs: list[Seen], measured: list[float]) -> Result:
    controller, database, memory, cpu_ms = measured
    rows = {kind: [run.took_ms[kind] for run in runs] for kind in KINDS}
    rows["all"] = [[ms for took in run.took_ms.values() for ms in took] for run in runs]
    return Result(
        name="scale_api",
        title=f"the api at {RATE:g} requests/s, {fleet.endpoints:,} endpoints × 10 replicas",
        command=COMMAND if RATE == RATE_USUAL else f"BENCH_API_RATE={RATE:g} {COMMAND}",
        candidates=[
            Candidate(
                kind,
                {
                    "requests": [float(len(took)) for took in taken],
                    "p50_ms": [_share(took, 0.50) for took in taken],
                    "p99_ms": [_share(took, 0.99) for took in taken],
                    "max_ms": [max(took) for took in taken],
                },
            )
            for kind, taken in rows.items()
        ],
        facts=[
            Fact("CPU of the api per request", "ms", [cpu_ms / sum(map(len, rows["all"]))]),
            Fact("controller meanwhile", "% of a core", [controller]),
            Fact("database meanwhile", "% of a core", [database]),
            Fact("api process, resident", "MiB", [memory]),
        ],
        notes=[
            f"{RUNS} runs of {LASTS_S:g} s; each request is timed from when it was due",
            "one api process, asked on its socket; a controller leads and carries the deployments out",
        ],
    )


def _share(values: list[float], share: float) -> float:
    return sorted(values)[round(share * (len(values) - 1))]


async def _keys(database: Database, secrets: Path) -> list[str]:
    """A management key of each org."""
    clock, pepper = Clock(), load_pepper(secrets)
    made = []
    async with database.begin() as tx:
        for number in range(ORGS):
            _, key = await accounts.create_key(
                tx,
                kind=KeyKind.MANAGEMENT,
                org_id=f"o{number}",
                name="bench",
                expires_at=None,
                pepper=pepper,
                key_id=clock.new_short_id(),
                secret=clock.new_secret(),
                now=clock.now(),
            )
            made.append(key)
    return made


def _module(name: str) -> list[str]:
    return [sys.executable, "-m", name]


def _json(given: Mapping[str, object], fleet: Fleet) -> str:
    return json.dumps({**given, "endpoints": fleet.endpoints})


@contextmanager
def _child(command: list[str], **env: str) -> Iterator[subprocess.Popen[str]]:
    """Gone at the end of the block, however that comes."""
    inherited = {n: v for n, v in os.environ.items() if not n.startswith("WEIGHBRIDGE_")}
    child = subprocess.Popen(
        command,
        env={**inherited, **env},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield child
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()


def _wait_for(socket: Path, api: subprocess.Popen[str]) -> None:
    deadline_s = time.monotonic() + START_LIMIT_S
    while not accepts_unix(socket):
        assert api.poll() is None, f"the api ended with {api.returncode}"
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def run(url: str, postgres: Path, data: Path, fleet: Fleet) -> Result:
    return asyncio.run(measure(url, postgres, data, fleet))
