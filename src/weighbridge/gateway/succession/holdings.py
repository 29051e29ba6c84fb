"""What a gateway's parent holds for its life: its lock, its ports, and the sockets that its workers listen on."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from weighbridge.gateway.port import DataDirLock, PortReservation


@dataclass(slots=True)
class Holdings:
    """`listeners` are copies of the workers' own: a worker that lives listens without them.

    Each socket may be held by two parents at once while one follows the other. A connection that has come waits
    in the socket, not in a process, so none is lost when one of them lets go.
    """

    lock: DataDirLock
    public: PortReservation
    probe: PortReservation
    probe_listener: socket.socket
    listeners: list[socket.socket] = field(default_factory=list)

    def descriptors(self) -> Sequence[int]:
        """In the order in which `of_descriptors` takes them."""
        held = (self.public.socket, self.public.name, self.probe.socket, self.probe.name)
        sockets = (*held, self.probe_listener, *self.listeners)
        return [self.lock.descriptor, *(one.fileno() for one in sockets)]

    @classmethod
    def of_descriptors(cls, descriptors: Sequence[int]) -> Self:
        lock, *rest = descriptors
        public, public_name, probe, probe_name, probe_listener, *listeners = (
            socket.socket(fileno=descriptor) for descriptor in rest
        )
        return cls(
            DataDirLock(lock),
            PortReservation.adopted(public, public_name),
            PortReservation.adopted(probe, probe_name),
            probe_listener,
            listeners,
        )

    def drop(self, listeners: Sequence[socket.socket]) -> None:
        """Let go of the copies of a worker's sockets."""
        for listener in listeners:
            listener.close()
        self.listeners = [one for one in self.listeners if one not in listeners]

    def close(self) -> None:
        """May be called again."""
        self.drop(self.listeners)
        self.probe_listener.close()
        self.probe.close()
        self.public.close()
        self.lock.close()
