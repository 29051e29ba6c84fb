"""The parent's side of the courier: its start before the workers', its restarts, its end after theirs."""

import asyncio
import sys
from contextlib import suppress

import structlog

from weighbridge.errors import SetupError
from weighbridge.gateway.options import EXIT_SETUP, Options
from weighbridge.gateway.succession.events import first_of

log = structlog.get_logger()

READY = "ready"
"""What a courier says first, where nothing stands in its way."""
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
        if line == f"{READY}\n".encode():
            return
        if line and await process.wait() == EXIT_SETUP:
            raise SetupError(line.decode(errors="replace").strip())
        log.warning("courier.late", next_step="the gateway starts with the tables it has")

    async def keep(self, stop: asyncio.Event, followed: asyncio.Event) -> None:
        """Start it again whenever it dies, until one of the two. After `stop` it lives on, for the workers still
        drain; when another gateway has followed, its courier speaks for these workers too, and this one ends.
        """
        while not stop.is_set() and not followed.is_set():
            assert self._process is not None
            ended = asyncio.Event()
            ending = asyncio.create_task(_say_end(self._process, ended))
            try:
                await first_of(ended, stop, followed)
            finally:
                ending.cancel()
            if not ended.is_set():
                break
            status = self._process.returncode
            pause_s = REFUSED_PAUSE_S if status == EXIT_SETUP else RESTART_PAUSE_S
            log.error("courier.died", status=status, restart_in_s=pause_s)
            await first_of(stop, followed, limit_s=pause_s)
            if not stop.is_set() and not followed.is_set():
                await self._spawn(asyncio.subprocess.DEVNULL)
        if followed.is_set():
            await self.stop()

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


async def _say_end(process: asyncio.subprocess.Process, ended: asyncio.Event) -> None:
    await process.wait()
    ended.set()
