"""Misfortune, drawn from the seed: each fault happens at a moment, most of them end by themselves."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from simulation.gateways.gateway import Gateway
from simulation.gateways.workers import Worker
from simulation.installation.control import ControlPlane
from simulation.installation.hosts import Host
from simulation.installation.site import Site

ROOM_MIN = 8
"""Slots of each machine once everything is mended: enough for any shape."""
Undo = Callable[[], None] | None


@dataclass(slots=True)
class Misfortune:
    """Brings faults over a site. `controls` are the control planes of the world, `restart` starts one again; `hosts`
    are the further machines with a gateway.
    """

    site: Site
    controls: dict[str, ControlPlane]
    hosts: Sequence[Host]
    restart: Callable[[str], None]
    shift_wall: Callable[[float], None]

    def bring(self, kind: str) -> None:
        site = self.site
        site.log.add("fault", name=kind)
        undo = _ALL[kind](self, site.chance)
        if undo is not None:
            delay_s = site.chance.choice((0.5, 2.0, 6.0, 20.0)) * site.chance.uniform(0.5, 1.5)
            site.loop.later(delay_s, self._end, kind, undo)

    def _end(self, kind: str, undo: Callable[[], None]) -> None:
        self.site.log.add("fault.ended", name=kind)
        undo()

    def calm(self) -> None:
        """Everything is mended."""
        site = self.site
        site.server.away = False
        site.server.lose_commits = 0
        site.machines.away = False
        if site.machines.pulls is not None:
            site.machines.pulls.away = False
        site.engine.flapping = 0.0
        for node in site.machines.nodes.values():
            node.taken, node.disk_full = 0, False
            node.slots = max(node.slots, ROOM_MIN)
            if not node.alive:
                site.machines.return_node(node.name)
        site.machines.admit()
        self._mend_hosts()
        for gateway, worker in self.workers():
            gateway.hurry(worker)
            if not worker.alive:
                gateway.restart(worker)
        for name, control in list(self.controls.items()):
            control.runtime.lossy = 0.0
            control.process.fuse = None
            control.process.resume()
            if not control.process.alive and name == "a":
                self.restart(name)
        site.log.add("calm")

    def _mend_hosts(self) -> None:
        self.site.deaf = False
        for host in self.hosts:
            host.way.cut = False
            host.routes.disk_full = False
            host.thaw()
            host.boot()
            host.start_courier()

    def workers(self) -> list[tuple[Gateway, Worker]]:
        """Of all machines."""
        gateways = self.site.gateways
        return [(gateway, worker) for gateway in gateways for worker in gateway.workers]

    def a_control(self) -> ControlPlane:
        return self.site.chance.choice(list(self.controls.values()))


def _crash(world: Misfortune, chance: Random) -> Undo:
    """At some await, soon; restarted after a while."""
    control = world.a_control()
    control.process.fuse = chance.randrange(300)
    return lambda: world.restart(control.name)


def _crash_now(world: Misfortune, chance: Random) -> Undo:
    control = world.a_control()
    control.kill()
    return lambda: world.restart(control.name)


def _pause(world: Misfortune, chance: Random) -> Undo:
    """It is stopped in the middle of what it does, and goes on later as if nothing had been."""
    process = world.a_control().process
    process.pause()
    return process.resume


def _second(world: Misfortune, chance: Random) -> Undo:
    """Another control plane is started beside the first."""
    if "b" not in world.controls or not world.controls["b"].process.alive:
        world.restart("b")
    return None


def _database_away(world: Misfortune, chance: Random) -> Undo:
    server = world.site.server
    server.shut()

    def undo() -> None:
        server.away = False

    return undo


def _lose_commits(world: Misfortune, chance: Random) -> Undo:
    world.site.server.lose_commits += chance.randint(1, 4)
    return None


def _machines_away(world: Misfortune, chance: Random) -> Undo:
    machines = world.site.machines
    machines.away = True

    def undo() -> None:
        machines.away = False

    return undo


def _calls_lost(world: Misfortune, chance: Random) -> Undo:
    control = world.a_control()
    control.runtime.lossy = chance.choice((0.2, 0.6))

    def undo() -> None:
        control.runtime.lossy = 0.0

    return undo


def _agent_restarts(world: Misfortune, chance: Random) -> Undo:
    machines = world.site.machines
    machines.away = True
    machines.restart_agent()

    def undo() -> None:
        machines.away = False
        machines.admit()

    return undo


def _node_lost(world: Misfortune, chance: Random) -> Undo:
    machines = world.site.machines
    name = chance.choice(list(machines.nodes))
    machines.lose_node(name)

    def undo() -> None:
        if not machines.nodes[name].alive:
            machines.return_node(name)

    return undo


def _engine_crashes(world: Misfortune, chance: Random) -> Undo:
    machines = world.site.machines
    alive = [engine for engine in machines.engines.values() if engine.alive]
    for engine in chance.sample(alive, min(len(alive), chance.choice((1, 1, 2, 4)))):
        machines.crash(engine)
    return None


def _probes_flap(world: Misfortune, chance: Random) -> Undo:
    engine = world.site.engine
    engine.flapping = chance.choice((0.2, 0.5, 1.0))

    def undo() -> None:
        engine.flapping = 0.0

    return undo


def _slots_taken(world: Misfortune, chance: Random) -> Undo:
    machines = world.site.machines
    node = chance.choice(list(machines.nodes.values()))
    node.taken = node.slots

    def undo() -> None:
        node.taken = 0
        machines.admit()

    return undo


def _disk_full(world: Misfortune, chance: Random) -> Undo:
    node = chance.choice(list(world.site.machines.nodes.values()))
    node.disk_full = True

    def undo() -> None:
        node.disk_full = False

    return undo


def _worker_dies(world: Misfortune, chance: Random) -> Undo:
    gateway, worker = chance.choice(world.workers())
    if worker.alive and not gateway.frozen:
        gateway.kill(worker)

    def undo() -> None:
        if not worker.alive:
            gateway.restart(worker)

    return undo


def _acks_late(world: Misfortune, chance: Random) -> Undo:
    gateway, worker = chance.choice(world.workers())
    worker.late_s = chance.choice((0.3, 2.0, 8.0))

    return lambda: gateway.hurry(worker)


def _wall_jumps(world: Misfortune, chance: Random) -> Undo:
    world.shift_wall(chance.choice((-86_400.0, -30.0, 30.0, 86_400.0)))
    return None


def _weights_away(world: Misfortune, chance: Random) -> Undo:
    """Where nodes pull from."""
    pulls = world.site.machines.pulls
    if pulls is None:
        return None
    pulls.away = True

    def undo() -> None:
        pulls.away = False

    return undo


def _courier_dies(world: Misfortune, chance: Random) -> Undo:
    host = chance.choice(world.hosts)
    if host.courier is not None and not host.frozen:
        host.courier.process.kill()
    return host.start_courier


def _host_cut(world: Misfortune, chance: Random) -> Undo:
    host = chance.choice(world.hosts)
    host.cut()

    def undo() -> None:
        host.way.cut = False

    return undo


def _host_lost(world: Misfortune, chance: Random) -> Undo:
    """For ever; but one machine stays that serves."""
    host = chance.choice(world.hosts)
    others = (g for g in world.site.gateways if g.workers and not g.lost and g is not host.gateway)
    if any(others) and not host.gateway.lost:
        host.lose()
    return None


def _host_reboots(world: Misfortune, chance: Random) -> Undo:
    host = chance.choice(world.hosts)
    if host.up:
        host.die()
    return host.boot


def _host_stops(world: Misfortune, chance: Random) -> Undo:
    host = chance.choice(world.hosts)
    host.stop()
    return host.boot


def _host_frozen(world: Misfortune, chance: Random) -> Undo:
    """It stands still as a whole, and goes on later as if nothing had been."""
    host = chance.choice(world.hosts)
    host.freeze()
    return host.thaw


def _host_full(world: Misfortune, chance: Random) -> Undo:
    """It lives and reports, and can take no table; often for longer than it is waited for."""
    host = chance.choice(world.hosts)
    host.routes.disk_full = True

    def undo() -> None:
        host.routes.disk_full = False

    return undo if chance.random() < 0.5 else None


def _wakes_lost(world: Misfortune, chance: Random) -> Undo:
    site = world.site
    site.deaf = True

    def undo() -> None:
        site.deaf = False

    return undo


_FAULTS: dict[str, Callable[[Misfortune, Random], Undo]] = {
    "crash": _crash,
    "crash now": _crash_now,
    "pause": _pause,
    "second control": _second,
    "database away": _database_away,
    "commits lost": _lose_commits,
    "machines away": _machines_away,
    "calls lost": _calls_lost,
    "agent restarts": _agent_restarts,
    "node lost": _node_lost,
    "engines crash": _engine_crashes,
    "probes flap": _probes_flap,
    "slots taken": _slots_taken,
    "disk full": _disk_full,
    "worker dies": _worker_dies,
    "acks late": _acks_late,
    "wall jumps": _wall_jumps,
}
_HOST_FAULTS: dict[str, Callable[[Misfortune, Random], Undo]] = {
    "courier dies": _courier_dies,
    "host cut": _host_cut,
    "host lost": _host_lost,
    "host reboots": _host_reboots,
    "host stops": _host_stops,
    "host frozen": _host_frozen,
    "host full": _host_full,
    "wakes lost": _wakes_lost,
}
"""Where there are further machines with a gateway."""
_ALL = {**_FAULTS, **_HOST_FAULTS, "weights away": _weights_away}
KINDS = tuple(_FAULTS)
PULL_KINDS = (
    "weights away",
    "machines away",
    "machines away",
    "node lost",
    "node lost",
    "crash now",
)
"""Where nodes pull."""
HOST_KINDS = (
    *_HOST_FAULTS,
    *("host cut", "host cut", "database away", "database away"),
    *("worker dies", "acks late", "wall jumps"),
)
"""What befalls worlds with such machines; the more often a kind stands here, the more often."""
