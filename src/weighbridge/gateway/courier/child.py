"""The parent's side of the courier: its start before the workers', its restarts, its end after theirs."""

import asyncio
import sys
from contextlib import suppress

import structlog

from weighbridge.errors import SetupError
from weighbridge.gateway.options import EXIT_SETUP, Options

log = structlog.get_logger()

READY = b"ready\n"
READY_WAIT_S = 30.0
"""For an interpreter on a busy machine and a database that does not answer; then the workers start without it."""
RESTART_PAUSE_S = 1.0
REFUSED_PAUSE_S = 10.0
STOP_S = 12.0


class CourierChild:
    """Owned by the gateway's parent; the workers never wait for it once they run."""

    def __init__(self, options: Options) -> None:
        self._argv = [sys.executable, "-m", "weighbridge.gateway.courier", *options.courier_argv()]
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Returns when it has brought the tables, or tried to. SetupError when it says that this host cannot serve."""
        process = await self._spawn(asyncio.subprocess.PIPE)
        assert process.stdout is not None
        line = b""
        with suppress(TimeoutError):
            async with asyncio.timeout(READY_WAIT_S):
                line = await process.stdout.readline()
        if line == READY:
            return
        if line and await process.wait() == EXIT_SETUP:
            raise SetupError(line.decode(errors="replace").strip())
        log.warning("courier.late", next_step="the gateway starts with the tables it has")

    async def keep(self, stop: asyncio.Event) -> None:
        """Start it again whenever it dies, until `stop`; it lives on then, for the workers still drain."""
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                status = await self._ended(stopping)
                if status is None:
                    return
                pause_s = REFUSED_PAUSE_S if status == EXIT_SETUP else RESTART_PAUSE_S
                log.error("courier.died", status=status, restart_in_s=pause_s)
                await asyncio.wait({stopping}, timeout=pause_s)
                if not stop.is_set():
                    await self._spawn(asyncio.subprocess.DEVNULL)
        finally:
            stopping.cancel()

    async def stop(self) -> None:
        """After the workers: it takes what they have used along, and says that nobody is here any more."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(STOP_S):
                await process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _spawn(self, output: int) -> asyncio.subprocess.Process:
        self._process = await asyncio.create_subprocess_exec(
            *self._argv, stdin=asyncio.subprocess.DEVNULL, stdout=output
        )
        return self._process

    async def _ended(self, stopping: "asyncio.Task[bool]") -> int | None:
        """Its exit status; None when the gateway stops first."""
        assert self._process is not None
        ended = asyncio.create_task(self._process.wait())
        try:
            await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return ended.result() if ended.done() else None
        finally:
            ended.cancel()
