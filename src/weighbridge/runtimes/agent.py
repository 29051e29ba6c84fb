"""The node agent: a process that serves one machine's replicas over a unix socket.

It holds the lifelines of all engines: if it dies they stop, by design, so it is small and changes
rarely. Only its own user and root may speak to it.
"""

import argparse
import asyncio
import os
import signal
import socket
import struct
import sys
from pathlib import Path

import msgspec
import structlog

from weighbridge.errors import InvalidError, SetupError, UnavailableError, WeighbridgeError
from weighbridge.runtimes import wire
from weighbridge.runtimes.node import HOST, Node, Place
from weighbridge.runtimes.processes import become_subreaper, hold_lock
from weighbridge.runtimes.slots import Room
from weighbridge.settings import DataDir

log = structlog.get_logger()

CONNECTIONS_MAX = 64
IDLE_TIMEOUT_S = 60.0
LOCK_NAME = "agent.lock"
PEER = struct.Struct("3i")
"""struct ucred of SO_PEERCRED: pid, uid, gid."""


def main() -> None:
    place, paths = _arguments()
    try:
        _require_own(place.host)
        with hold_lock(paths.run / LOCK_NAME):
            asyncio.run(serve(place, paths.agent_socket))
            paths.agent_socket.unlink(missing_ok=True)
    except SetupError as error:
        sys.stderr.write(f"{error.message}\n")
        sys.exit(os.EX_CONFIG)


async def serve(place: Place, socket_path: Path) -> None:
    """Run until SIGTERM or SIGINT, then stop every replica and wait for the end of each."""
    become_subreaper()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    node = Node(place)
    node.adopt_leftovers()
    agent = Agent(node)
    server = await asyncio.start_unix_server(
        agent.converse, sock=wire.private_listener(socket_path), limit=wire.REQUEST_BYTES_MAX
    )
    log.info("agent.ready", node=place.node, slots=place.room.slots)
    await stopping.wait()
    log.info("agent.stopping", node=place.node)
    await node.close()  # still answering: a caller sees its replicas end
    server.close()
    await agent.hang_up()


class Agent:
    """Turns lines into calls of the node, one connection beside the other."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._decoder = msgspec.json.Decoder(wire.Request)
        self._conversations: set[asyncio.Task[None]] = set()
        self._epoch = 0

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._conversations.add(task)
        try:
            if len(self._conversations) > CONNECTIONS_MAX or not _is_trusted(writer):
                return
            while line := await self._next_line(reader, writer):
                await _send(writer, self._answer(line))
        except (ConnectionError, TimeoutError):
            pass  # the caller has gone
        finally:
            self._conversations.discard(task)
            writer.close()

    async def hang_up(self) -> None:
        for task in self._conversations:
            task.cancel()
        await asyncio.gather(*self._conversations, return_exceptions=True)

    async def _next_line(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bytes | None:
        """None at the end of the conversation."""
        try:
            async with asyncio.timeout(IDLE_TIMEOUT_S):
                return await reader.readuntil(b"\n")
        except asyncio.IncompleteReadError:
            return None
        except asyncio.LimitOverrunError:
            too_long = InvalidError(f"a call is at most {wire.REQUEST_BYTES_MAX} bytes")
            await _send(writer, wire.refusal(too_long))
            return None

    def _answer(self, line: bytes) -> wire.Reply:
        try:
            return self._perform(self._decoder.decode(line))
        except msgspec.MsgspecError as error:
            return wire.refusal(InvalidError(f"not a call of this agent: {error}"))
        except WeighbridgeError as error:
            return wire.refusal(error)
        except OSError as error:
            return wire.refusal(UnavailableError(f"node {self._node.place.node}: {error}"))

    def _fence(self, epoch: int) -> None:
        """Refuse a controller that another one has followed, whatever it still believes (D5)."""
        if epoch and epoch < self._epoch:
            raise UnavailableError(
                f"a controller of epoch {self._epoch} leads; this one's is {epoch}"
            )
        self._epoch = max(self._epoch, epoch)

    def _perform(self, request: wire.Request) -> wire.Reply:
        if isinstance(request, wire.Launch | wire.List | wire.Stop | wire.Forget):
            self._fence(request.epoch)
        match request:
            case wire.Launch(spec=spec):
                wire.check_spec(spec)
                self._node.launch(spec)
            case wire.List(selector=selector):
                return wire.Reply(replicas=self._node.statuses(selector))
            case wire.Stop(name=name, grace_s=grace_s):
                self._node.stop(name, min(max(0.0, grace_s), wire.GRACE_S_MAX))
            case wire.Forget(name=name):
                self._node.forget(name)
            case wire.Logs(name=name, tail_bytes=tail_bytes):
                limit = min(max(0, tail_bytes), wire.LOG_TAIL_BYTES_MAX)
                return wire.Reply(text=self._node.logs(name, limit))
            case wire.Fetch():
                raise InvalidError("the replicas of one machine load from its weight store")
            case wire.Capacity():
                return wire.Reply(nodes=[self._node.capacity()])
        return wire.Reply()


async def _send(writer: asyncio.StreamWriter, reply: wire.Reply) -> None:
    writer.write(msgspec.json.encode(reply) + b"\n")
    async with asyncio.timeout(IDLE_TIMEOUT_S):
        await writer.drain()


def _is_trusted(writer: asyncio.StreamWriter) -> bool:
    peer: socket.socket = writer.get_extra_info("socket")
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER.size)
    return PEER.unpack(credentials)[1] in (os.geteuid(), 0)


def _require_own(host: str) -> None:
    """SetupError unless gateways can be told to reach this machine's engines by it."""
    try:
        with socket.socket() as probe:
            probe.bind((host, 0))
            own = host not in ("", "0.0.0.0")
    except OSError:
        own = False
    if not own:
        raise SetupError(
            f"WEIGHBRIDGE_REPLICA_HOST is {host!r}, which is no IPv4 address of this machine. Engines listen on one, "
            "and gateways reach them by it.",
            code="replica_host",
        )


def _arguments() -> tuple[Place, DataDir]:
    parser = argparse.ArgumentParser(prog="weighbridge.runtimes.agent", description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--node", default="local", help="name of this machine")
    parser.add_argument("--slots", type=int, default=8, help="engine processes at once")
    parser.add_argument("--gpus", default="", help="ids of accelerators to give out, as in 0,1")
    parser.add_argument("--host", default=HOST, help="address of this machine for the engines")
    arguments = parser.parse_args()
    paths = DataDir(arguments.data_dir.expanduser().resolve())
    devices = tuple(word for word in arguments.gpus.split(",") if word)
    room = Room(arguments.slots, devices)
    place = Place(arguments.node, paths.run, paths.logs / "replicas", room, arguments.host)
    return place, paths


if __name__ == "__main__":
    main()
