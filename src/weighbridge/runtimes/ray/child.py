"""The Ray driver as a child of the control process: its start, calls to it, its end."""

import asyncio
import contextlib
import itertools
from typing import Self

import msgspec
import structlog

from weighbridge.errors import UnavailableError
from weighbridge.runtimes import wire
from weighbridge.runtimes.ray.options import RayOptions
from weighbridge.runtimes.ray.wire import CALLS_MAX, LINE_BYTES_MAX, Answer, Call, Greeting

log = structlog.get_logger()

DRIVER_MODULE = "weighbridge.runtimes.ray.driver"
CONNECT_TIMEOUT_S = 60.0
"""Importing ray and joining the cluster, on a machine that is busy with other things."""
END_TIMEOUT_S = 3.0


class DriverChild:
    """A driver that has connected. `close` it in any case, also when it has ended."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[wire.Reply]] = {}
        self._decoder = msgspec.json.Decoder(Answer)
        self._reading: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, options: RayOptions) -> Self:
        """Raises UnavailableError, whose message says what to do; nothing of the child is left then."""
        try:
            process = await asyncio.create_subprocess_exec(
                *(options.python, "-m", DRIVER_MODULE, *options.arguments()),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=options.environment(),
                limit=LINE_BYTES_MAX,
            )
        except OSError as error:
            raise UnavailableError(
                f"The Ray driver cannot be started with {options.python}: {error.strerror}. "
                "Set WEIGHBRIDGE_RAY_PYTHON to an interpreter that has ray and weighbridge.",
                code="ray_driver_missing",
            ) from error
        child = cls(process)
        try:
            await child._greet(options)
        except BaseException:
            await child.close()
            raise
        child._reading = asyncio.create_task(child._read(), name="ray driver answers")
        return child

    @property
    def alive(self) -> bool:
        return (
            self._process.returncode is None
            and self._reading is not None
            and not self._reading.done()
        )

    async def call(self, request: wire.Request, timeout_s: float) -> wire.Reply:
        """Raises UnavailableError when no answer comes."""
        if len(self._waiting) >= CALLS_MAX:
            raise UnavailableError(
                f"{CALLS_MAX} calls to the Ray driver are under way already; try again."
            )
        name = type(request).__name__.lower()
        number = next(self._numbers)
        answer: asyncio.Future[wire.Reply] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            async with asyncio.timeout(timeout_s):
                assert self._process.stdin is not None
                self._process.stdin.write(msgspec.json.encode(Call(number, request)) + b"\n")
                await self._process.stdin.drain()
                return await answer
        except TimeoutError as error:
            raise UnavailableError(
                f"The Ray driver did not answer {name} within {timeout_s:g} s."
            ) from error
        except OSError as error:
            raise UnavailableError(f"The Ray driver has ended during {name}.") from error
        finally:
            self._waiting.pop(number, None)

    async def close(self) -> None:
        """End the driver; the replicas go on without it."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            async with asyncio.timeout(END_TIMEOUT_S):
                await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _greet(self, options: RayOptions) -> None:
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                line = await self._process.stdout.readline()
        except TimeoutError as error:
            raise UnavailableError(
                f"The Ray cluster at {options.address} did not let the driver in within "
                f"{CONNECT_TIMEOUT_S:g} s: is its head up, and a Ray node on this machine?",
                code="ray_unreachable",
            ) from error
        except ValueError as error:  # a line without an end
            raise _unreadable(options) from error
        if not line:
            raise UnavailableError(
                f"The Ray driver ({options.python}) ended before it had connected to "
                f"{options.address}; its last words are in the control process's log.",
                code="ray_driver_ended",
            )
        try:
            greeting = msgspec.json.decode(line, type=Greeting)
        except (ValueError, msgspec.MsgspecError) as error:
            raise _unreadable(options) from error
        if greeting.error_code:
            raise UnavailableError(greeting.error_message, code=greeting.error_code)
        log.info("ray.connected", address=options.address, ray=greeting.ray_version)

    async def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            while line := await self._process.stdout.readline():
                answer = self._decoder.decode(line)
                waiting = self._waiting.get(answer.number)
                if waiting is not None and not waiting.done():
                    waiting.set_result(answer.reply)
        except (ValueError, msgspec.MsgspecError) as error:
            log.warning("ray.driver_unreadable", error=str(error))
        finally:
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(UnavailableError("The Ray driver has ended."))


def _unreadable(options: RayOptions) -> UnavailableError:
    """The line itself is not told: it may be anything."""
    return UnavailableError(
        f"What {options.python} wrote first is not a Ray driver's greeting. Check that it is an "
        "interpreter with this server's version of weighbridge, and that neither it nor what it "
        "imports at its start writes to its standard output; WEIGHBRIDGE_RAY_PYTHON names it.",
        code="ray_driver_unreadable",
    )
