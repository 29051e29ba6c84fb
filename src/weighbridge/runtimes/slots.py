"""Which waiting replicas of a node may start now. Pure: no processes, no clock."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Room:
    """What a node can hold at once: engine processes, and accelerators by their CUDA ids."""

    slots: int
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Waiting:
    name: str
    gpus: float = 0.0


@dataclass(frozen=True, slots=True)
class Admission:
    """`devices_by_name` holds those that start now; `reason_by_name` says why the others wait."""

    devices_by_name: Mapping[str, tuple[str, ...]]
    reason_by_name: Mapping[str, str]


def admit(room: Room, held: Sequence[tuple[str, ...]], waiting: Sequence[Waiting]) -> Admission:
    """First come, first served; `held` has the devices of each replica that is not yet confirmed
    dead.

    A replica that can never fit here waits aside and holds up nobody; one that waits for its turn
    holds up all behind it, or a wish for many accelerators would starve behind small ones.
    """
    slots_free = room.slots - len(held)
    taken = {device for devices in held for device in devices}
    free = [device for device in room.devices if device not in taken]
    starts: dict[str, tuple[str, ...]] = {}
    reasons: dict[str, str] = {}
    turn_is_held = False
    for wish in waiting:
        count = math.ceil(wish.gpus)
        if count > len(room.devices):
            reasons[wish.name] = f"needs {count} GPUs; this node offers {len(room.devices)}"
        elif turn_is_held:
            reasons[wish.name] = "waits for its turn"
        elif slots_free < 1:
            reasons[wish.name] = f"waits for one of {room.slots} slots"
            turn_is_held = True
        elif count > len(free):
            reasons[wish.name] = f"waits for {count} GPUs; {len(free)} are free"
            turn_is_held = True
        else:
            starts[wish.name] = tuple(free[:count])
            del free[:count]
            slots_free -= 1
    return Admission(starts, reasons)
