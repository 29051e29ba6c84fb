"""A real gateway of the tests: its processes, its data directory, and the tables the control plane would write."""

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

import weighbridge
from stub_engine import StubEngine
from weighbridge.routing.acks import GatewayView, open_acks
from weighbridge.routing.files import write_snapshot
from weighbridge.routing.model import (
    EndpointRoute,
    KeyEntry,
    KeyTable,
    ReplicaRoute,
    RouteTable,
)
from weighbridge.routing.tokens import key_digest, load_pepper, replica_token
from weighbridge.settings import DataDir

START_S = 60.0
ORG, OTHER_ORG = "org_one", "org_two"
KEY = "wb_inf_one_secretofone"
OTHER_KEY = "wb_inf_two_secretoftwo"
EXPIRED_KEY = "wb_inf_old_secretofold"
ENDPOINT = "acme-tiny"


@dataclass
class GatewayProcess:
    """Start it with `start`; `port` and `url` are known then. `stop` leaves no process behind."""

    root: Path
    workers: int = 1
    arguments: Sequence[str] = ()
    generation: int = 0
    keys_generation: int = 0
    process: subprocess.Popen | None = None
    port: int = 0
    probe_port: int = 0
    pepper: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.paths.run.mkdir(parents=True, mode=0o700)
        self.pepper = load_pepper(self.paths.secrets)
        self.view = GatewayView(open_acks(self.paths.acks_file))

    @property
    def paths(self) -> DataDir:
        return DataDir(self.root)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.root / "gateway.log").read_text(encoding="utf-8")

    def engine(self, replica_id: str, **changes: object) -> StubEngine:
        digest = hashlib.sha256(replica_id.encode()).hexdigest()
        return StubEngine(
            served_name=f"{replica_id}.{digest[:32]}",
            token=replica_token(self.pepper, replica_id),
            **changes,
        )

    def replica(self, replica_id: str, url: str, *, slot: int, version: int = 1) -> ReplicaRoute:
        digest = hashlib.sha256(replica_id.encode()).hexdigest()
        return ReplicaRoute(
            replica_id=replica_id,
            slot=slot,
            url=url,
            incarnation="i1",
            served_name=f"{replica_id}.{digest[:32]}",
            digest=digest,
            version=version,
            fingerprint=f"fp_{digest[:20]}-v{version}",
        )

    def endpoint(self, *replicas: ReplicaRoute, **changes: object) -> EndpointRoute:
        values: dict = {
            "endpoint_id": ENDPOINT,
            "org_id": ORG,
            "org_name": "acme",
            "arch_id": "tiny",
            "created_unix_s": 1736700000,
            "deployed": True,
            "rolling_out": False,
            **changes,
        }
        return EndpointRoute(replicas=replicas, **values)

    def publish_routes(self, *endpoints: EndpointRoute) -> int:
        self.generation += 1
        write_snapshot(self.paths.routes_file, RouteTable(self.generation, endpoints))
        return self.generation

    def publish_keys(self, *keys: KeyEntry) -> int:
        self.keys_generation += 1
        table = KeyTable(self.keys_generation, keys or self.usual_keys())
        write_snapshot(self.paths.keys_file, table)
        return self.keys_generation

    def usual_keys(self) -> tuple[KeyEntry, ...]:
        return (
            self.key(KEY, ORG),
            self.key(OTHER_KEY, OTHER_ORG),
            self.key(EXPIRED_KEY, ORG, expires_unix_s=time.time() - 1),
        )

    def key(self, text: str, org_id: str, expires_unix_s: float | None = None) -> KeyEntry:
        digest = key_digest(self.pepper, text).hex()
        return KeyEntry(digest, f"key_{text[7:10]}", org_id, expires_unix_s)

    def command(self, port: int = 0) -> list[str]:
        return [
            *(sys.executable, "-m", "weighbridge.gateway"),
            *("--data-dir", str(self.root), "--host", "127.0.0.1", "--port", str(port)),
            *("--probe-host", "127.0.0.1", "--probe-port", "0"),
            *("--workers", str(self.workers), *self.arguments),
        ]

    async def start(self, port: int = 0) -> None:
        source = str(Path(weighbridge.__file__).parents[1])
        with (self.root / "gateway.log").open("ab") as output:
            before = self.log.count("gateway.listening")
            self.process = subprocess.Popen(  # noqa: ASYNC220 - starts, never waits
                self.command(port), stderr=output, env={**os.environ, "PYTHONPATH": source}
            )
        try:
            await until(lambda: self.log.count("gateway.listening") >= before + self.workers, self)
        except BaseException:
            await self.stop()
            raise
        facts = json.loads((self.paths.run / "gateway.json").read_text(encoding="utf-8"))
        self.port, self.probe_port = facts["port"], facts["probe_port"]

    async def everything_logged(self) -> None:
        """A request's line comes after those of all that ended before it, which are those of the test before."""
        stranger = {"authorization": "Bearer nobody"}
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self.url}/v1/models", headers=stranger) as answer,
        ):
            request_id = answer.headers["x-request-id"]
        await until(lambda: request_id in self.log, self)

    async def applied(self, generation: int) -> None:
        await until(lambda: (self.view.routes_acked() or 0) >= generation, self)

    async def stop(self) -> None:
        if self.process is None:
            return
        self.process.terminate()
        try:
            await asyncio.to_thread(self.process.wait, START_S)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                self.process.kill()
            self.process.wait()


async def until(
    condition: Callable[[], bool], gateway: GatewayProcess | None = None, limit_s: float = START_S
) -> None:
    """Poll a condition; on failure say what the gateway said."""
    end_s = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end_s:
            raise AssertionError(f"not within {limit_s} s; {gateway.log if gateway else ''}")
        await asyncio.sleep(0.01)
