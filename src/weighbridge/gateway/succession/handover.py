"""One parent of a gateway hands all that it holds to another, which tells it when its own workers serve.

Over a unix socket in the run directory: the successor connects, is sent one line and the descriptors, and answers
with TAKEN. A successor that ends without it has changed nothing: whoever handed over goes on.
"""

import asyncio
import json
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from weighbridge.errors import SetupError
from weighbridge.gateway.succession.holdings import Holdings
from weighbridge.runtimes.wire import private_listener, socket_address

log = structlog.get_logger()

SOCKET_NAME = "gateway.sock"
TAKEN = b"taken"
SERVING_WAIT_S = 60.0
"""For a successor's workers to start."""
SUCCESSOR_WAIT_S = 90.0
ASK_TIMEOUT_S = 5.0
LINE_BYTES_MAX = 4096
DESCRIPTORS_MAX = 250
"""Of one message; Linux allows 253."""


@dataclass(slots=True)
class Inheritance:
    """What a predecessor has handed over. It serves on until `confirm`; `columns` are its workers'."""

    holdings: Holdings
    columns: Sequence[int]
    _predecessor: socket.socket

    def confirm(self) -> None:
        """Say that this parent's workers serve: the predecessor lets its own finish, and ends."""
        try:
            self._predecessor.sendall(TAKEN)
        except OSError as error:  # it has ended meanwhile, which is as good
            log.warning("gateway.predecessor_gone", reason=str(error))
        self._predecessor.close()

    def close(self) -> None:
        self._predecessor.close()
        self.holdings.close()


def ask(run: Path) -> Inheritance | None:
    """None where nobody is there to ask. Blocks for a few seconds at most; raises SetupError when nothing comes."""
    predecessor = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    predecessor.settimeout(ASK_TIMEOUT_S)
    descriptors: list[int] = []
    text = b""
    try:
        with socket_address(run / SOCKET_NAME) as address:
            predecessor.connect(address)
        while not text.endswith(b"\n"):
            piece, received, _, _ = socket.recv_fds(predecessor, LINE_BYTES_MAX, DESCRIPTORS_MAX)
            if not piece:
                raise ConnectionError("it handed nothing over")
            descriptors += received
            text += piece
        columns = [int(column) for column in json.loads(text)["columns"]]
        return Inheritance(Holdings.of_descriptors(descriptors), columns, predecessor)
    except (FileNotFoundError, ConnectionRefusedError):
        predecessor.close()
        return None
    except (OSError, ValueError) as error:
        predecessor.close()
        raise SetupError(f"No gateway on {run} could be taken over: {error}") from error


async def hand_over(
    run: Path, holdings: Holdings, columns: Sequence[int], may_start: asyncio.Event
) -> None:
    """Wait for a successor and return once it serves; `may_start` is unset while one has not said so.

    `columns` is read when a successor comes: those of the workers that there are then.
    """
    loop = asyncio.get_running_loop()
    listener = private_listener(run / SOCKET_NAME)
    try:
        while True:
            successor, _ = await loop.sock_accept(listener)
            with successor:
                successor.setblocking(False)
                may_start.clear()
                try:
                    _send(successor, holdings, columns)
                    async with asyncio.timeout(SUCCESSOR_WAIT_S):
                        if await loop.sock_recv(successor, len(TAKEN)) == TAKEN:
                            return
                except (OSError, TimeoutError) as error:
                    log.warning("gateway.handover_failed", reason=repr(error))
                may_start.set()
    finally:
        listener.close()


def _send(successor: socket.socket, holdings: Holdings, columns: Sequence[int]) -> None:
    line = json.dumps({"columns": list(columns)}).encode() + b"\n"
    socket.send_fds(successor, [line], holdings.descriptors())
