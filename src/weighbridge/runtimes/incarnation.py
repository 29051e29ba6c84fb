"""One start of an engine behind a shim: spawn it, stop it, know when its whole tree is dead."""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from weighbridge.runtimes.base import ReplicaSpec
from weighbridge.runtimes.processes import (
    Mark,
    ProcessIdentity,
    Remembered,
    child_pids,
    find_marked,
    identify,
    mark_of,
    reap,
    send_signal,
)

SHIM = Path(__file__).with_name("shim.py")
SHIM_ROLE = "shim"
ENGINE_ROLE = "engine"
SHIM_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH")
PLACEHOLDER = re.compile(r"\{(?:model|host|port|python|cache)\}")
INHERITED = re.compile(
    r"PATH|HOME|USER|LANG|LC_.*|TZ|TMPDIR|LD_LIBRARY_PATH|PYTHONPATH|XDG_CACHE_HOME"
    r"|OMP_.*|CUDA_.*|NVIDIA_.*|NCCL_.*|ROCR_.*|HIP_.*"
)
"""What an engine inherits of its agent's environment; all else comes from its spec."""
START_TIMEOUT_S = 30.0
SWEEP_PERIOD_S = 0.02
SWEEP_PERIOD_MAX_S = 1.0
REAP_TRIES_MAX = 100


class EngineStartError(Exception):
    """The engine's program could not be run; says why."""


@dataclass(frozen=True, slots=True)
class EngineStart:
    """What to run; every placeholder is filled in, and `env` is all that the engine will see."""

    argv: Sequence[str]
    env: Mapping[str, str]
    log: Path
    log_bytes_max: int
    grace_s: float


@dataclass(frozen=True, slots=True)
class Ending:
    """`exit_code` is negative for a signal, None when nobody could know it."""

    exit_code: int | None
    reason: str


class Incarnation:
    """Holds the lifeline of a shim: if this process dies, the engine is stopped."""

    def __init__(self, mark: Mark, lifeline: int, status: asyncio.StreamReader) -> None:
        self._mark = mark
        self._lifeline = lifeline
        self._status = status
        self._shim = 0
        self._stop_asked = False
        self.pid = 0
        self._engine: ProcessIdentity | None = None

    @classmethod
    async def start(cls, mark: Mark, start: EngineStart) -> Self:
        """Raises EngineStartError; nothing of the engine is left then."""
        lifeline_read, lifeline_write = os.pipe()
        status_read, status_write = os.pipe()
        os.set_blocking(lifeline_write, False)
        incarnation = cls(mark, lifeline_write, await _reader(status_read))
        try:
            await _spawn_shim(mark, start, lifeline_read, status_write)
            os.close(status_write)
            status_write = -1
            async with asyncio.timeout(START_TIMEOUT_S):
                await incarnation._read_start()
        except (OSError, TimeoutError, EngineStartError) as error:
            os.close(lifeline_write)
            await sweep(mark)
            await incarnation._reap_shim()
            raise EngineStartError(str(error) or "its shim did not answer") from error
        finally:
            os.close(lifeline_read)
            if status_write >= 0:
                os.close(status_write)
        return incarnation

    def stop(self, grace_s: float) -> None:
        """Ask for the end of the whole tree; a later call may shorten the grace."""
        self._stop_asked = True
        with contextlib.suppress(BrokenPipeError, BlockingIOError):  # it has ended, or is at it
            os.write(self._lifeline, json.dumps({"stop": grace_s}).encode() + b"\n")

    async def ended(self) -> Ending:
        """Wait until every process of the tree is confirmed dead (R19)."""
        exit_code: int | None = None
        gone = False
        async for line in self._status:
            message = json.loads(line)
            exit_code = message.get("exit", exit_code)
            gone = gone or "gone" in message
        if not gone:
            await sweep(self._mark, self._engine)
        os.close(self._lifeline)
        await self._reap_shim()
        if not gone:
            return Ending(exit_code, "its shim was killed, and the engine with it")
        return Ending(exit_code, describe_end(exit_code, stop_asked=self._stop_asked))

    async def _read_start(self) -> None:
        line = await self._status.readline()
        # Any: a line of JSON, which our own shim wrote
        message: dict[str, Any] = json.loads(line) if line else {"error": "its shim died"}
        self._shim = message.get("shim", 0)
        if "error" in message:
            raise EngineStartError(message["error"])
        self.pid = message["pid"]
        # One that has ended already is still to be reaped, should its shim be killed.
        self._engine = identify(self.pid) or ProcessIdentity(self.pid, -1)

    async def _reap_shim(self) -> None:
        """Its pipe is closed, so it ends in a moment; a child of ours if we are a subreaper."""
        for _ in range(REAP_TRIES_MAX):
            if self._shim == 0 or reap(self._shim):
                return
            await asyncio.sleep(SWEEP_PERIOD_S)


def engine_start(
    spec: ReplicaSpec, values: Mapping[str, str], devices: Mapping[str, str], log: Path
) -> EngineStart:
    """What a spec asks for, its placeholders filled with `values`; `devices` is what says which accelerators it has."""
    environment = {n: v for n, v in os.environ.items() if INHERITED.fullmatch(n)}
    environment |= devices
    environment |= {name: fill(value, values) for name, value in spec.env.items()}
    return EngineStart(
        argv=[fill(word, values) for word in spec.argv],
        env=environment | dict(spec.secrets),
        log=log,
        log_bytes_max=spec.log_bytes_max,
        grace_s=spec.grace_s,
    )


def fill(text: str, values: Mapping[str, str]) -> str:
    """Replace the placeholders in one pass: what is put in is not searched again."""
    return PLACEHOLDER.sub(lambda found: values[found.group()], text)


def describe_end(exit_code: int | None, *, stop_asked: bool) -> str:
    if exit_code is None:
        how = "ended"
    elif exit_code < 0:
        names = {int(number): number.name for number in signal.Signals}
        how = f"ended by {names.get(-exit_code, f'signal {-exit_code}')}"
    else:
        how = f"exited with code {exit_code}"
    return f"stopped; {how}" if stop_asked else how


async def sweep(mark: Mark, engine: ProcessIdentity | None = None) -> None:
    """Kill what an engine without a shim has left, and wait until all of it is dead.

    Without a limit: a process that the kernel cannot end still holds its port and its memory, and
    saying that it is gone would give them away (R19).
    """
    known = [engine] if engine else []
    killed = {process.pid for process in known}
    left = Remembered(lambda: [*tree_of(mark), *strays()], known)
    period_s = SWEEP_PERIOD_S
    while living := left.living():
        for process in living:
            send_signal(process, signal.SIGKILL)
            killed.add(process.pid)
        await asyncio.sleep(period_s)
        period_s = min(period_s * 2, SWEEP_PERIOD_MAX_S)
    for pid in killed:
        reap(pid)


def tree_of(mark: Mark, role: str | None = None) -> list[ProcessIdentity]:
    """The living processes of an incarnation, found by the mark that they inherited."""
    return [
        process.identity
        for process in find_marked(Path(mark.home))
        if process.mark.incarnation == mark.incarnation and role in (None, process.mark.role)
    ]


def strays() -> list[ProcessIdentity]:
    """Living children of this process that carry no mark.

    A subreaper is given the orphans of a shim that was killed. All that it starts itself is marked,
    so an unmarked child is one that an engine started with a cleared environment.
    """
    unmarked = (pid for pid in child_pids(os.getpid()) if mark_of(pid) is None)
    return [identity for pid in unmarked if (identity := identify(pid))]


async def _spawn_shim(mark: Mark, start: EngineStart, lifeline: int, status: int) -> None:
    shim_mark = Mark(mark.home, SHIM_ROLE, mark.name, mark.incarnation, mark.labels)
    inherited = {name: os.environ[name] for name in SHIM_ENVIRONMENT if name in os.environ}
    first = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", str(SHIM), str(lifeline), str(status)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        env=inherited | shim_mark.environment(),
        pass_fds=(lifeline, status),
        start_new_session=True,
    )
    document = {
        "argv": list(start.argv),
        "env": dict(start.env) | mark.environment(),
        "log": str(start.log),
        "log_bytes_max": start.log_bytes_max,
        "grace_s": start.grace_s,
    }
    async with asyncio.timeout(START_TIMEOUT_S):
        await first.communicate(json.dumps(document).encode())


async def _reader(fd: int) -> asyncio.StreamReader:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb"))
    return reader
