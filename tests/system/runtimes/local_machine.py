"""A machine with a node agent, and replicas on it, for tests of the local runtime."""

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from weighbridge.errors import UnavailableError
from weighbridge.runtimes.base import ReplicaSpec, RuntimeState, Weights
from weighbridge.runtimes.process import ProcessRuntime
from weighbridge.runtimes.processes import find_marked, identify, send_signal

ENGINE = str(Path(__file__).parents[1] / "programs" / "engine.py")
SECRET = "s3cret-of-the-replica"
LIMIT_S = 30.0


class Machine:
    """A data directory with a node agent on it."""

    def __init__(self, root: Path, slots: int, *extra: str) -> None:
        self.root = root
        self.run_dir = root / "run"
        self.logs_dir = root / "logs" / "replicas"
        self.command = [sys.executable, "-m", "weighbridge.runtimes.agent"]
        self.command += ["--data-dir", str(root), "--node", "n1", "--slots", str(slots), *extra]
        self.runtime = ProcessRuntime(self.run_dir / "agent.sock")
        self.agent: subprocess.Popen | None = None

    async def start(self) -> None:
        self.spawn_agent()
        await eventually(self.answers)

    def spawn_agent(self) -> None:
        environment = os.environ | {"DATABASE_PASSWORD": "of-the-server"}
        self.agent = subprocess.Popen(self.command, env=environment, stdout=subprocess.DEVNULL)

    async def answers(self) -> bool:
        try:
            return bool(await self.runtime.capacity())
        except UnavailableError:
            return False

    def kill_agent(self) -> None:
        self.agent.kill()
        self.agent.wait()

    async def status(self, name: str):
        return next(r for r in await self.runtime.list({}) if r.name == name)

    async def state(self, name: str) -> RuntimeState:
        return (await self.status(name)).state

    async def until(self, name: str, state: RuntimeState):
        async def reached():
            return await self.state(name) is state

        await eventually(reached)
        return await self.status(name)

    def processes(self, role: str | None = None):
        return [p.identity for p in find_marked(self.run_dir) if role in (None, p.mark.role)]

    def close(self) -> None:
        if self.agent and self.agent.poll() is None:
            self.agent.terminate()
            try:
                self.agent.wait(LIMIT_S)
            except subprocess.TimeoutExpired:
                self.kill_agent()
        left = self.processes()
        for process in left:
            send_signal(process, signal.SIGKILL)


async def eventually(condition, limit_s: float = LIMIT_S) -> None:
    deadline_s = time.monotonic() + limit_s
    while True:
        answer = condition()
        if await answer if asyncio.iscoroutine(answer) else answer:
            return
        assert time.monotonic() < deadline_s, f"not within {limit_s} s"
        await asyncio.sleep(0.02)


def spec(name: str, *arguments: str, **changes) -> ReplicaSpec:
    argv = [sys.executable, "-S", ENGINE, "--host", "{host}", "--port", "{port}"]
    wish = ReplicaSpec(
        name,
        [*argv, "--model", "{model}", *arguments],
        Weights("digest", "/models/{port}", 1),
        secrets={"ENGINE_TOKEN": SECRET},
        labels={"endpoint": "e1"},
        grace_s=2.0,
    )
    return dataclasses.replace(wish, **changes)


async def ask(url: str) -> dict:
    """What the engine answers, once it listens."""
    answers = []

    def get() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                answers.append(json.load(answer))
        except OSError:
            return False
        return True

    await eventually(lambda: asyncio.to_thread(get))
    return answers[0]


async def launched(machine: Machine, name: str, *arguments: str, **changes):
    """The status and the identities of the engine and its children, once it serves."""
    await machine.runtime.launch(spec(name, *arguments, **changes))
    status = await machine.until(name, RuntimeState.RUNNING)
    answer = await ask(status.url)
    return status, [identify(pid) for pid in (answer["pid"], *answer["children"])]


def commands_of_this_user() -> list[bytes]:
    commands = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.stat().st_uid == os.geteuid():
                commands.append(path.read_bytes())
    return commands


def zombies_of(parent: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if fields[0] == "Z" and int(fields[1]) == parent:
                found.append(int(path.parent.name))
    return found


def environment_of(pid: int) -> dict[str, str]:
    text = Path(f"/proc/{pid}/environ").read_text()
    return dict(item.split("=", 1) for item in text.split("\0") if item)
