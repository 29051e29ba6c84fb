"""Roles, and the seat that a control process takes: its name and which of them it has."""

import argparse
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from weighbridge.errors import SetupError

CONTROL = "control"
_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
_RESERVED = frozenset({"agent", "gateway", "supervisor", "weights"})
"""Names of other processes' locks."""


class Role(StrEnum):
    AGENT = "agent"
    """Starts and watches this machine's engines."""
    GATEWAY = "gateway"
    """Serves inference, and passes management on to the `api`."""
    API = "api"
    CONTROLLER = "controller"
    """Syncs weights, moves rollouts, replaces replicas; of several, one at a time leads."""
    WEIGHTS = "weights"
    """Gives versions to the nodes of a cluster; needed where the weight store is in this data directory."""


CONTROL_ROLES = frozenset({Role.API, Role.CONTROLLER})


@dataclass(frozen=True, slots=True)
class Seat:
    """No two live control processes of a data directory have the same name."""

    name: str = CONTROL
    roles: frozenset[Role] = CONTROL_ROLES

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name in _RESERVED:
            raise SetupError(
                f"{self.name!r} cannot be the name of a control process; it is a letter, then at most 30 letters, "
                f"digits and hyphens, and none of {', '.join(sorted(_RESERVED))}."
            )
        if not self.roles or not self.roles <= CONTROL_ROLES:
            raise SetupError("A control process is an api, a controller, or both.")

    def holder(self, host: str, boot_id: str, root: Path) -> str:
        """The name under which it takes leases; no two live processes have the same (D5).

        On one machine nobody else can hold the lock of this seat in this data directory. Two machines may share host
        name and path, as clones do, but not the boot. One that was started anew waits for its own leases to expire.
        """
        return f"{host}:{boot_id}:{root}:{self.name}"

    def argv(self) -> list[str]:
        return ["--roles", ",".join(sorted(self.roles)), "--name", self.name]


def read_roles(text: str) -> frozenset[Role]:
    """From a list with commas. Raises SetupError for a word that is no role, and for an empty list."""
    words = [word.strip() for word in text.split(",")]
    unknown = [word for word in words if word not in set(Role)]
    if unknown:
        known = ", ".join(Role)
        raise SetupError(f"{unknown[0]!r} is no role; the roles are {known}.")
    return frozenset(Role(word) for word in words)


def seat_for(roles: Collection[Role], name: str | None) -> Seat:
    """With a name of its own where none is given: `control`, `api` or `controller`."""
    mine = frozenset(roles) & CONTROL_ROLES
    usual = CONTROL if mine == CONTROL_ROLES else next(iter(mine), Role.API).value
    return Seat(name or usual, mine)


def read_seat(argv: Sequence[str]) -> Seat:
    """From the arguments of a control process."""
    parser = argparse.ArgumentParser(prog="weighbridge.server.roles.launch")
    parser.add_argument("--roles", default=",".join(sorted(CONTROL_ROLES)))
    parser.add_argument("--name")
    given = parser.parse_args(argv)
    return seat_for(read_roles(given.roles), given.name)
