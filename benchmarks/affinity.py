"""What affinity saves: chats that grow turn by turn before two real llama.cpp replicas, with affinity off and on."""

import asyncio
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from blake3 import blake3

from benchmarks.gateway.peers import SOURCE, START_S
from benchmarks.harness import Candidate, Result
from weighbridge.cli.demo.process import free_ports
from weighbridge.engines.base import TOKEN_VARIABLE, served_name
from weighbridge.routing.files import write_snapshot
from weighbridge.routing.model import EndpointRoute, KeyEntry, KeyTable, ReplicaRoute, RouteTable
from weighbridge.routing.options import Affinity
from weighbridge.routing.tokens import key_digest, load_pepper, replica_token
from weighbridge.settings import DataDir

MODEL = Path(__file__).parents[1] / "tests" / "models" / "llama-v1"
KEY = "wb_inf_bench_affinityaffinityaffinity"
REPLICAS = 2
SLOTS = 4
ROUNDS = 5
SESSIONS = 9
SESSIONS_AT_ONCE = 3
THINK_MIN_S, THINK_MAX_S = 0.3, 1.2
"""Between two turns. A chat that asks again at once finds the place that it has just left the least loaded."""
TURNS = 6
PREFIX_CHARS = 3200
TURN_CHARS = 160
ANSWER_TOKENS = 8
MODES = {
    "off": Affinity.OFF,
    "session (`user`)": Affinity.SESSION,
    "prefix": Affinity.PREFIX,
}
WORDS = ("scale", "truck", "gravel", "sand", "noon", "rain", "yard", "weighs", "falls", "before")


@dataclass
class Seen:
    """Of the turns after a chat's first, which nobody can have cached."""

    first_token_ms: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    cached_tokens: int = 0


def run() -> Result:
    samples: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory() as root, ExitStack() as stack:
        url = stack.enter_context(_standing(Path(root)))
        for number in range(ROUNDS):
            # In another order each time: who comes first finds the engines' caches as the last one left them.
            order = list(MODES)[number % len(MODES) :] + list(MODES)[: number % len(MODES)]
            for mode in order:
                seen = asyncio.run(_chats(url, mode, random.Random(f"{number} {mode}")))
                times = sorted(seen.first_token_ms)
                found = samples[mode]
                found["first_token_p50_ms"].append(statistics.median(times))
                found["first_token_p90_ms"].append(times[int(0.9 * (len(times) - 1))])
                found["cached_prompt_tokens_percent"].append(
                    100 * seen.cached_tokens / seen.prompt_tokens
                )
                found["prompt_tokens_mean"].append(seen.prompt_tokens / len(times))
                read_anew = seen.prompt_tokens - seen.cached_tokens
                found["tokens_read_anew_mean"].append(read_anew / len(times))
    return Result(
        name="affinity",
        title=f"{SESSIONS} chats of {TURNS} turns, {SESSIONS_AT_ONCE} at once, {REPLICAS} replicas",
        command="python -m benchmarks affinity",
        candidates=[Candidate(mode, dict(samples[mode])) for mode in MODES],
        notes=[
            "Figures are of the turns after each chat's first; every round has new chats.",
            "`off` chooses the least loaded replica; llama.cpp keeps prompts in its slots and 256 MiB beyond.",
        ],
    )


@dataclass(frozen=True, slots=True)
class Asker:
    session: aiohttp.ClientSession
    url: str
    mode: str
    chance: random.Random


async def _chats(url: str, mode: str, chance: random.Random) -> Seen:
    seen, turns = Seen(), asyncio.Semaphore(SESSIONS_AT_ONCE)

    async def chat(name: str) -> None:
        async with turns:
            await _chat(Asker(session, url, mode, chance), name, seen)

    headers = {"authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession(headers=headers) as session, asyncio.TaskGroup() as tasks:
        for number in range(SESSIONS):
            tasks.create_task(chat(f"{mode} {number} {chance.random()}"))
    return seen


async def _chat(asker: Asker, name: str, seen: Seen) -> None:
    messages = [{"role": "system", "content": _text(PREFIX_CHARS, asker.chance)}]
    body: dict[str, object] = {"max_tokens": ANSWER_TOKENS, "temperature": 0, "stream": True}
    if MODES[asker.mode] is Affinity.SESSION:
        body["user"] = name
    for turn in range(TURNS):
        messages.append({"role": "user", "content": _text(TURN_CHARS, asker.chance)})
        began_s, first_s, text = time.monotonic(), 0.0, ""
        asked = {**body, "model": _endpoint(asker.mode), "messages": messages}
        path = f"{asker.url}/v1/chat/completions"
        async with asker.session.post(path, json=asked) as answer:
            answer.raise_for_status()
            async for line in answer.content:
                if not line.startswith(b"data: {"):
                    continue
                event = json.loads(line[6:])
                if event["choices"][0]["delta"].get("content"):
                    first_s = first_s or time.monotonic()
                    text += event["choices"][0]["delta"]["content"]
                usage = event.get("usage")
        messages.append({"role": "assistant", "content": text or "."})
        if turn:
            seen.first_token_ms.append(((first_s or time.monotonic()) - began_s) * 1000)
            seen.prompt_tokens += usage["prompt_tokens"]
            seen.cached_tokens += usage["prompt_tokens_details"]["cached_tokens"]
        await asyncio.sleep(asker.chance.uniform(THINK_MIN_S, THINK_MAX_S))


def _text(chars: int, chance: random.Random) -> str:
    words: list[str] = []
    while sum(map(len, words)) + len(words) < chars:
        words.append(chance.choice(WORDS))
    return " ".join(words)


def _endpoint(mode: str) -> str:
    return f"bench-{MODES[mode]}"


@contextmanager
def _standing(root: Path) -> Iterator[str]:
    """The real gateway before real engines; its address."""
    digest = _version(root / "version")
    paths = DataDir(root / "data")
    paths.run.mkdir(parents=True, mode=0o700)
    pepper = load_pepper(paths.secrets)
    *engine_ports, port, probe_port = free_ports(REPLICAS + 2)
    replicas = [_route(f"r{slot}", slot, at, digest) for slot, at in enumerate(engine_ports)]
    endpoints = tuple(
        EndpointRoute(
            endpoint_id=f"bench-{mode}",
            org_id="org_bench",
            org_name="bench",
            arch_id="tiny",
            created_unix_s=0,
            deployed=True,
            rolling_out=False,
            replicas=tuple(replicas),
            affinity=mode,
        )
        for mode in MODES.values()
    )
    write_snapshot(paths.routes_file, RouteTable(1, endpoints))
    key = KeyEntry(key_digest(pepper, KEY).hex(), "key_bench", "org_bench")
    write_snapshot(paths.keys_file, KeyTable(1, (key,)))
    gateway = (
        *(sys.executable, "-m", "weighbridge.gateway", "--data-dir", str(paths.root)),
        *("--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--probe-host", "127.0.0.1", "--probe-port", str(probe_port)),
    )
    with ExitStack() as stack:
        for replica, engine_port in zip(replicas, engine_ports, strict=True):
            token = replica_token(pepper, replica.replica_id)
            command = _engine(root, replica.served_name, engine_port, digest)
            stack.enter_context(_process(command, {TOKEN_VARIABLE: token}))
        stack.enter_context(_process(gateway, {}))
        asyncio.run(_answering(f"http://127.0.0.1:{port}"))
        yield f"http://127.0.0.1:{port}"


def _route(name: str, slot: int, port: int, digest: str) -> ReplicaRoute:
    return ReplicaRoute(
        replica_id=name,
        slot=slot,
        url=f"http://127.0.0.1:{port}",
        incarnation="1",
        served_name=served_name(name, digest),
        digest=digest,
        version=1,
        fingerprint="fp_bench",
    )


def _engine(root: Path, name: str, port: int, digest: str) -> Sequence[str]:
    return (
        *(sys.executable, "-m", "weighbridge.engines.llamacpp_server"),
        *("--model", str(root / "version"), "--digest", digest, "--served-name", name),
        *("--host", "127.0.0.1", "--port", str(port), "--cache-dir", str(root / f"cache-{port}")),
        *("--slots", str(SLOTS), "--threads", "1"),
    )


def _version(target: Path) -> str:
    """A version directory as the weight store lays it out; the digest of its manifest."""
    target.mkdir()
    files = []
    for source in sorted(MODEL.iterdir()):
        if source.name != "reference.json":
            shutil.copy(source, target)
            content = source.read_bytes()
            entry = {"path": source.name, "size": len(content)}
            files.append({**entry, "digest": blake3(content).hexdigest()})
    manifest = json.dumps({"files": files}).encode()
    (target / "weighbridge-manifest.json").write_bytes(manifest)
    return blake3(manifest).hexdigest()


@contextmanager
def _process(command: Sequence[str], secrets: Mapping[str, str]) -> Iterator[None]:
    process = subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": SOURCE, "OMP_NUM_THREADS": "1", **secrets},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


async def _answering(url: str) -> None:
    """Until both replicas have answered: some requests in a row, the least loaded one first."""
    deadline_s, whole = time.monotonic() + START_S, 0
    body = {"model": _endpoint("off"), "messages": [{"role": "user", "content": "?"}]}
    headers = {"authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        while whole < 8 * REPLICAS:
            assert time.monotonic() < deadline_s, "the engines did not start"
            try:
                asked = {**body, "max_tokens": 1}
                async with session.post(f"{url}/v1/chat/completions", json=asked) as answer:
                    whole = whole + 1 if answer.status == 200 else 0
            except aiohttp.ClientError:
                whole = 0
            await asyncio.sleep(0 if whole else 0.2)
