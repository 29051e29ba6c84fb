"""What users and operators ask of the management API, at random: the real services, answered by a control plane."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from random import Random

from simulation.engines.exams import ECHO, SUM
from simulation.history.log import Log
from simulation.installation.control import SETTINGS, ControlPlane
from weighbridge.acceptance import service as acceptance
from weighbridge.acceptance.store import Scope
from weighbridge.accounts.model import Org
from weighbridge.endpoints import service as endpoints
from weighbridge.errors import WeighbridgeError
from weighbridge.registry import service as registry
from weighbridge.registry.names import VersionName
from weighbridge.rollouts import service as rollouts
from weighbridge.rollouts.canaries import service as canaries
from weighbridge.storage.database import Transaction

ARCH = "tiny"
ENDPOINT = "chat"
ALIASES = ("prod", "beta")
TRIES_MAX = 2
WAKES = ("ingest", "rollouts", "replicas", "routes")


@dataclass(frozen=True, slots=True)
class Wish:
    """One request; `kind` and `value` are what the log shows of it."""

    kind: str
    value: object = ""


Act = Callable[[Transaction, datetime], Awaitable[object]]


class People:
    """Asks one thing after the other; remembers what was answered, so that it can be held against the rows."""

    def __init__(self, org: Org, chance: Random, log: Log) -> None:
        self.org = org
        self._chance = chance
        self._log = log
        self._asked = 0
        self.deployments: list[str] = []
        self.canaries: list[str] = []

    def draw(self, versions: int) -> Wish:  # noqa: PLR0911 - one for each kind of wish
        """What somebody wants next, in a world with so many uploads."""
        chance = self._chance
        roll = chance.random()
        if roll < 0.5:
            ref: object = (
                chance.choice(ALIASES) if chance.random() < 0.2 else chance.randint(1, versions)
            )
            return Wish("deploy", ref)
        if roll < 0.62:
            return Wish("cancel")
        if roll < 0.68:
            return Wish("rollback")
        if roll < 0.76:
            return Wish(
                "resize", (chance.randint(1, 4), chance.randint(0, 1), chance.randint(0, 2))
            )
        if roll < 0.84:
            return Wish("delete version", chance.randint(1, versions))
        if roll < 0.92:
            return Wish("alias", (chance.randint(1, versions), chance.choice(ALIASES)))
        return Wish("upload")

    def ask(self, control: ControlPlane, wish: Wish) -> None:
        self._asked += 1
        number = self._asked
        self._log.add("asked", control.name, request=number, wish=wish.kind, value=wish.value)
        act = self._act(control, wish)

        async def answer(control: ControlPlane) -> None:
            try:
                async with control.database.begin() as tx:
                    result = await act(tx, control.clock.now())
            except WeighbridgeError as error:
                self._log.add(
                    "answered", control.name, request=number, wish=wish.kind, refused=error.code
                )
                return
            self._log.add(
                "answered", control.name, request=number, wish=wish.kind, result=_name(result)
            )
            for name in WAKES:
                control.wake(name)

        control.serve(answer)

    def _act(self, control: ControlPlane, wish: Wish) -> Act:
        org, value = self.org, wish.value
        match wish.kind:
            case "deploy":
                assert isinstance(value, int | str)
                return self._deploy(value, None)
            case "promote":
                which = self._canary(value)
                return lambda tx, now: canaries.promote(tx, which, org_id=org.id, now=now)
            case "cancel canary":
                which = self._canary(value)
                return lambda tx, now: rollouts.cancel(tx, which, org_id=org.id, now=now)
            case "cancel":
                which = self._chance.choice(self.deployments or ["none"])
                return lambda tx, now: rollouts.cancel(tx, which, org_id=org.id, now=now)
            case "rollback":
                deployment_id = f"d{self._asked}"
                self.deployments.append(deployment_id)
                return lambda tx, now: rollouts.rollback(
                    tx,
                    org,
                    ENDPOINT,
                    deployment_id=deployment_id,
                    now=now,
                    queue_max=SETTINGS.deployment_queue_max,
                )
            case _:
                return self._change(wish)

    def _canary(self, named: object) -> str:
        """The one that is named, or the last that somebody asked for."""
        return str(named) if named else next(reversed(self.canaries), "none")

    def _deploy(self, ref: int | str, percent: int | None) -> Act:
        org, deployment_id = self.org, f"d{self._asked}"
        self.deployments.append(deployment_id)
        name = VersionName(org.name, ARCH, ref)
        return lambda tx, now: rollouts.deploy(
            tx,
            org,
            ENDPOINT,
            name,
            deployment_id=deployment_id,
            now=now,
            queue_max=SETTINGS.deployment_queue_max,
            traffic_percent=percent,
        )

    def _change(self, wish: Wish) -> Act:
        org, value = self.org, wish.value
        match wish.kind, value:
            case "canary", (int(ref), int(percent)):
                self.canaries.append(f"d{self._asked}")
                return self._deploy(ref, percent)
            case "probes", int(count):
                probes = (SUM, ECHO)[:count]
                return lambda tx, now: acceptance.replace(
                    tx, Scope.ENDPOINT, ENDPOINT, probes, now=now
                )
            case "resize", (int(size), int(unavailable), int(surge)):
                return lambda tx, now: endpoints.update(
                    tx,
                    ENDPOINT,
                    replicas=size,
                    max_unavailable=unavailable,
                    max_surge=surge,
                    now=now,
                )
            case "delete version", int(number):
                return lambda tx, now: registry.delete(tx, org.id, ARCH, number, now=now)
            case "alias", (int(number), str(alias)):
                return lambda tx, now: registry.set_aliases(
                    tx, org.id, ARCH, number, [alias], now=now
                )
            case "upload", _:
                version_id = f"version-{self._asked}"
                return lambda tx, now: registry.upload(
                    tx,
                    org,
                    ARCH,
                    f"s3://bucket/{version_id}",
                    (),
                    None,
                    version_id=version_id,
                    now=now,
                )
            case _:
                raise AssertionError(wish)


def _name(result: object) -> object:
    return getattr(result, "id", "")
