"""The runtime of one machine: a client of its node agent, which starts and watches the engines."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from weighbridge.errors import UnavailableError
from weighbridge.runtimes import wire
from weighbridge.runtimes.base import NodeInfo, ReplicaSpec, ReplicaStatus

CALL_TIMEOUT_S = 10.0


class ProcessRuntime:
    """Each call opens a connection of its own, so an agent that was restarted is simply found
    again. `epoch_of` is the caller's lease, if it has one: with it goes all that changes something (D5).
    """

    def __init__(
        self,
        socket_path: Path,
        *,
        call_timeout_s: float = CALL_TIMEOUT_S,
        epoch_of: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._socket_path = socket_path
        self._call_timeout_s = call_timeout_s
        self._epoch_of = epoch_of
        self._decoder = msgspec.json.Decoder(wire.Reply)

    async def launch(self, spec: ReplicaSpec) -> None:
        """Raises InvalidError for a malformed spec, LimitError when too many replicas wait."""
        await self._call(wire.Launch(spec, self._epoch()))

    async def list(self, selector: Mapping[str, str]) -> Sequence[ReplicaStatus]:
        return (await self._call(wire.List(dict(selector), self._epoch()))).replicas

    async def stop(self, name: str, grace_s: float) -> None:
        await self._call(wire.Stop(name, grace_s, self._epoch()))

    async def forget(self, name: str) -> None:
        await self._call(wire.Forget(name, self._epoch()))

    async def logs(self, name: str, tail_bytes: int) -> str:
        """At most 1 MiB of it."""
        return (await self._call(wire.Logs(name, tail_bytes))).text

    async def capacity(self) -> Sequence[NodeInfo]:
        return (await self._call(wire.Capacity())).nodes

    def _epoch(self) -> int:
        return self._epoch_of() or 0

    async def _call(self, request: wire.Request) -> wire.Reply:
        call = type(request).__name__.lower()
        try:
            async with (
                asyncio.timeout(self._call_timeout_s),
                self._connection() as (reader, writer),
            ):
                writer.write(msgspec.json.encode(request) + b"\n")
                await writer.drain()
                line = await reader.readuntil(b"\n")
        except TimeoutError as error:
            raise UnavailableError(
                f"the node agent did not answer {call} within {self._call_timeout_s:g} s"
            ) from error
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise UnavailableError(
                f"the node agent is away ({call} at {self._socket_path}: {error}); "
                "it is started by `weighbridge up`"
            ) from error
        reply = self._decoder.decode(line)
        wire.raise_refusal(reply)
        return reply

    @contextlib.asynccontextmanager
    async def _connection(
        self,
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        with wire.socket_address(self._socket_path) as address:
            reader, writer = await asyncio.open_unix_connection(address, limit=wire.REPLY_BYTES_MAX)
        try:
            yield reader, writer
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
