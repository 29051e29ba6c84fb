"""Callers of the real api process beside a fleet: 200 requests a second at their times, reads and deploys mixed."""

import asyncio
import itertools
import json
import os
import random
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from benchmarks.scale.fleet import ARCH, ORGS
from weighbridge.sdk import Deployment

RATE_USUAL = 200.0
RATE = float(os.environ.get("BENCH_API_RATE", str(RATE_USUAL)))
WARM_S = 3.0
LASTS_S = 20.0
LIMIT_S = 30.0
KINDS = {
    "endpoint status": 0.40,
    "version status": 0.25,
    "deployments of an endpoint": 0.15,
    "versions of an architecture": 0.10,
    "endpoints of an org (50)": 0.0975,
    "deploy": 0.0025,
}


@dataclass(frozen=True, slots=True)
class Call:
    kind: str
    method: str
    path: str
    key: str
    body: Mapping[str, object] | None = None
    idempotency_key: str | None = None


@dataclass(slots=True)
class Seen:
    """Milliseconds from the time at which a request was due to the end of its answer, by kind."""

    took_ms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    refused: list[str] = field(default_factory=list)
    deployed: list[str] = field(default_factory=list)


class Callers:
    """`keys` are management keys by the number of their org."""

    def __init__(self, keys: Sequence[str], endpoints: int, seed: int) -> None:
        self._keys = keys
        self._endpoints = endpoints
        self._random = random.Random(seed)
        self._numbers = itertools.count()
        self._next_deployed = self._random.sample(range(1, endpoints + 1), endpoints)

    def call(self) -> Call:
        kind = self._random.choices(list(KINDS), list(KINDS.values()))[0]
        number = self._random.randint(1, self._endpoints)
        if kind == "deploy":
            number = self._next_deployed.pop()
        org = number % ORGS
        key, name = self._keys[org], f"org-{org}"
        versions = f"/management/v1/orgs/{name}/models/{ARCH}/versions"
        match kind:
            case "endpoint status":
                return Call(kind, "GET", f"/management/v1/endpoints/e{number}", key)
            case "version status":
                return Call(kind, "GET", f"{versions}/1", key)
            case "deployments of an endpoint":
                return Call(kind, "GET", f"/management/v1/deployments?endpoint_id=e{number}", key)
            case "versions of an architecture":
                return Call(kind, "GET", versions, key)
            case "deploy":
                body = {"model": f"orgs/{name}/models/{ARCH}/versions/2"}
                path = f"/management/v1/endpoints/e{number}:deployModel"
                return Call(kind, "POST", path, key, body, f"bench-{next(self._numbers)}")
        return Call(kind, "GET", f"/management/v1/orgs/{name}/endpoints", key)


async def paced(socket: Path, callers: Callers, lasts_s: float) -> Seen:
    """Requests at random times, `RATE` a second in the mean; one that is late delays no other."""
    seen, chance = Seen(), random.Random(1)
    connector = aiohttp.UnixConnector(str(socket), limit=0)
    async with aiohttp.ClientSession("http://api", connector=connector) as session:
        due_s, end_s = time.monotonic(), time.monotonic() + lasts_s
        async with asyncio.TaskGroup() as group:
            while due_s < end_s:
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                group.create_task(_ask(session, callers.call(), due_s, seen))
                due_s += chance.expovariate(RATE)
    return seen


async def _ask(session: aiohttp.ClientSession, call: Call, due_s: float, seen: Seen) -> None:
    headers = {"Authorization": f"Bearer {call.key}"}
    if call.idempotency_key is not None:
        headers["Idempotency-Key"] = call.idempotency_key
    async with asyncio.timeout(LIMIT_S):
        async with session.request(
            call.method, call.path, json=call.body, headers=headers
        ) as answer:
            content = await answer.read()
    seen.took_ms[call.kind].append((time.monotonic() - due_s) * 1000)
    if answer.status != 200:
        seen.refused.append(f"{call.method} {call.path}: {answer.status} {content[:200]!r}")
    elif call.kind == "deploy":
        seen.deployed.append(Deployment.read(json.loads(content)).id)
