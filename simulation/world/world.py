"""One simulated world from one seed: made, disturbed, mended, and watched until it has come to rest."""

from datetime import UTC, datetime, timedelta
from functools import partial
from random import Random

from msgspec import to_builtins

from simulation.engines.engine import NAME, SimEngine
from simulation.engines.exams import SUM
from simulation.engines.machines import Machines, Node
from simulation.engines.pulls import Pulls
from simulation.engines.versions import Character
from simulation.gateways.gateway import Gateway
from simulation.gateways.snapshots import File
from simulation.history.log import Log
from simulation.installation.control import GATED, LIMITS, SETTINGS, ControlPlane
from simulation.installation.counting import count_requests
from simulation.installation.hosts import Host
from simulation.installation.site import Site
from simulation.memory.database import Executor, Server
from simulation.memory.store import Change, Memory, Transaction
from simulation.scheduler import SimLoop, current_process
from simulation.steps import Point, Steps
from simulation.world.acts import (
    CALLS_PER_S,
    GATED_CALLS_PER_S,
    HELD_CALLS_PER_S,
    HOSTS_CALLS_PER_S,
    Acts,
    draw_acts,
    draw_hosts,
    draw_pulls,
)
from simulation.world.faults import Misfortune
from simulation.world.people import ALIASES, ARCH, ENDPOINT, People, Wish
from simulation.world.plot import Plot, draw_plot
from simulation.world.rest import at_rest, unrest
from weighbridge.accounts.model import Org
from weighbridge.routing.model import RouteTable

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
LOOK_S = 2.0
RESTART_S = 0.4
"""After which a killed control plane runs again."""
REST_MAX_S = 2_500.0
"""By then a mended world has come to rest: four rollouts at their longest, each with its way back."""
LOGGED = {
    "replicas": None,
    "deployments": None,
    "endpoints": None,
    "model_versions": None,
    "aliases": None,
    "leases": None,
    "gateway_hosts": None,
    "usage_requests": None,
    "acceptance_probes": None,
}
"""Tables whose changes are in the log."""


class World:
    """`run` plays it to its end; afterwards `log` holds everything, and `rested` says whether it came to rest."""

    def __init__(
        self,
        seed: int,
        executor: Executor | None = None,
        plot: Plot | None = None,
        point: Point | None = None,
    ) -> None:
        """`plot` in place of the one that the seed would give; at `point` a control plane is killed."""
        self.seed = seed
        self.chance = chance = Random(seed)
        self.plot = draw_plot(chance) if plot is None else plot
        self.acts = Acts()
        # A stream of its own: what is drawn from it changes nothing where it is not used.
        self.acting = acting = Random(f"{seed} acts")
        if plot is None:
            self.acts, self.plot = draw_acts(acting, self.plot)
            self.acts, self.plot = draw_hosts(Random(f"{seed} hosts"), self.acts, self.plot)
            self.acts, self.plot = draw_pulls(Random(f"{seed} pulls"), self.acts, self.plot)
        steps = Steps(point, self._restart)
        self.loop = loop = SimLoop(chance)  # type: ignore[abstract]  # nobody asks for the rest
        self.wall_offset_s = 0.0
        self.log = log = Log(loop.time, self.wall)
        self.memory = Memory(self.wall, self._committed)
        characters: dict[str, Character] = {}
        nodes = {f"node{n}": Node(f"node{n}", slots) for n, slots in enumerate(self.plot.nodes)}
        machines = Machines(loop, chance, log, nodes, characters)
        if self.acts.pulls:
            machines.pulls = Pulls(loop, acting, log)
        gateway = self._make_gateway(machines)
        self.site = Site(
            loop=loop,
            chance=chance,
            log=log,
            wall=self.wall,
            server=Server(loop, self.memory, chance, executor or Executor(), steps),
            steps=steps,
            machines=machines,
            engine=SimEngine(machines, chance, log),
            gateway=gateway,
            routes=File(self._routes_written),
            keys=File(lambda table: None),
            characters=characters,
            limits=GATED if self.acts.gated else LIMITS,
            examined=self.acts.examined,
            hold_s=SETTINGS.hold_s if self.acts.holding is None else self.acts.holding.hold_s,
            draw_manner=partial(self.acts.manner, acting),
            manners=gateway.manners,
        )
        self.controls: dict[str, ControlPlane] = {}
        self.hosts = self._make_hosts()
        self.misfortune = Misfortune(
            self.site, self.controls, self.hosts, self.start_control, self._shift
        )
        self.org = Org("org_1", "acme", "x1", None, BEGIN)
        self.people = People(self.org, chance, log)
        self.calm = False
        self._generation = 0
        self.rested = False

    def _make_gateway(self, machines: Machines) -> Gateway:
        """The control planes' own."""
        gateway = Gateway(
            self.loop, self.chance, self.log, machines, self.plot.workers, sharing=self.acting
        )
        if self.acts.gated:
            gateway.spool = []
        if self.acts.holding is not None:
            gateway.hold(self.acts.holding)
        return gateway

    def _make_hosts(self) -> list[Host]:
        site = self.site
        hosts = [
            Host(site, f"host{n}", workers, self.acting)
            for n, workers in enumerate(self.acts.hosts, 1)
        ]
        site.gateways = [site.gateway, *(host.gateway for host in hosts)]
        site.ears = [host.hear for host in hosts]
        return hosts

    def wall(self) -> datetime:
        return BEGIN + timedelta(seconds=self.loop.time() + self.wall_offset_s)

    def run(self) -> None:
        self._furnish()
        self._schedule()
        end_s = self.plot.active_s + REST_MAX_S
        self.loop.run(lambda: self.rested or bool(self.loop.broken), end_s)
        for error in self.loop.broken:
            self.log.add("broken", words=repr(error))
        self.log.add("end", rested=self.rested, unrest=unrest(self.site, self.memory))
        self.loop.discard()

    def start_control(self, name: str) -> None:
        running = self.controls.get(name)
        if running is None or not running.process.alive:
            self.controls[name] = ControlPlane(self.site, name)
            self.controls[name].start()

    def _restart(self, name: str) -> None:
        self.log.add("fault", name="crash point")
        self.loop.later(RESTART_S, self.start_control, name)

    def _shift(self, seconds: float) -> None:
        self.wall_offset_s += seconds

    def _furnish(self) -> None:
        """An org, an architecture, an endpoint and a few versions whose sync is done."""
        tx = self.memory.begin()
        now = BEGIN - timedelta(days=1)
        tx.insert(
            "orgs", {"id": "org_1", "name": "acme", "s3_external_id": "x1", "created_at": now}
        )
        tx.insert(
            "architectures",
            {
                "id": ARCH,
                "source_uri": "/models/tiny",
                "base_digest": "b" * 64,
                "tensors": [],
                "engine": {"engine": NAME, "start_timeout_s": 12.0},
                "created_at": now,
                "updated_at": now,
            },
        )
        replicas, unavailable, surge = self.plot.shape
        tx.insert(
            "endpoints",
            {
                "id": ENDPOINT,
                "org_id": "org_1",
                "arch_id": ARCH,
                "replicas": replicas,
                "max_unavailable": unavailable,
                "max_surge": surge,
                "created_at": now,
                "updated_at": now,
            },
        )
        if self.acts.examined:
            probes = {"probes": to_builtins([SUM]), "updated_at": now}
            tx.insert("acceptance_probes", {"scope": "architecture", "owner_id": ARCH, **probes})
        self._versions(tx, now)
        tx.commit()
        self.site.server.executor.furnished(self.memory)

    def _versions(self, tx: Transaction, now: datetime) -> None:
        count = len(self.plot.versions)
        tx.insert("version_counters", {"org_id": "org_1", "arch_id": ARCH, "last": count})
        for number, character in enumerate(self.plot.versions, 1):
            digest = self.site.new_bytes(character)
            self.site.publish(digest)
            values = {
                "id": f"version-{number}-0",
                "org_id": "org_1",
                "arch_id": ARCH,
                "number": number,
                "weight_uri": f"s3://bucket/{number}",
                "status": "done",
                "manifest_digest": digest,
                "created_at": now,
                "updated_at": now,
            }
            tx.insert("model_versions", values)
            self.log.add("version", number=number, character=self.site.characters[digest].value)
        for position, alias in enumerate(ALIASES[: count - 1]):
            tx.insert(
                "aliases",
                {
                    "org_id": "org_1",
                    "arch_id": ARCH,
                    "alias": alias,
                    "version_id": f"version-{position + 1}-0",
                    "position": 0,
                },
            )

    def _schedule(self) -> None:
        plot, loop = self.plot, self.loop
        loop.later(0.0, self.start_control, "a")
        loop.later(0.5, self._insist, Wish("deploy", 1))
        for at_s in plot.wishes:
            loop.later(at_s, self._wish)
        for at_s, kind in plot.faults:
            loop.later(at_s, self.misfortune.bring, kind)
        for at_s, wish in plot.script:
            loop.later(at_s, self._insist, wish)
        loop.later(plot.active_s, self._mend)
        loop.later(3.0, self._call)
        if self.acts.any:
            for at_s, wish in self.acts.wishes:
                loop.later(at_s, self._insist, wish)
            loop.later(3.0, self._call_of_share)
        if self.acts.gated:
            loop.spawn(None, count_requests(self.site))
        for at_s, kind in self.acts.faults:
            loop.later(at_s, self.misfortune.bring, kind)
        for host in self.hosts:
            loop.later(0.1, host.boot)
        if self.hosts:
            loop.later(3.0, self._call_hosts)

    def _wish(self) -> None:
        self._ask(self.people.draw(len(self.memory.tables["model_versions"])))

    def _ask(self, wish: Wish) -> None:
        alive = [c for c in self.controls.values() if c.process.alive]
        if alive:
            self.people.ask(self.chance.choice(alive), wish)

    def _insist(self, wish: Wish) -> None:
        if any(control.process.alive for control in self.controls.values()):
            self._ask(wish)
        else:
            self.loop.later(RESTART_S, self._insist, wish)

    def _call(self) -> None:
        chance = self.chance
        duration_s = (
            chance.uniform(5.0, 30.0) if chance.random() < 0.06 else chance.uniform(0.1, 1.5)
        )
        self.site.gateway.call(ENDPOINT, "org_1", duration_s)
        if not self.calm:
            self.loop.later(chance.expovariate(self.plot.calls_per_s), self._call)

    def _call_hosts(self) -> None:
        chance = self.acting
        duration_s = (
            chance.uniform(2.0, 40.0) if chance.random() < 0.1 else chance.uniform(0.1, 2.0)
        )
        self._a_gateway().call(ENDPOINT, "org_1", duration_s)
        if not self.calm:
            self.loop.later(chance.expovariate(HOSTS_CALLS_PER_S), self._call_hosts)

    def _call_of_share(self) -> None:
        """More requests while they are shared between versions, while the gate looks, and while none is ready."""
        table = self.site.gateway.newest
        endpoints = () if table is None else table.endpoints
        if self.acts.gated and any(endpoint.rolling_out for endpoint in endpoints):
            calls_per_s = GATED_CALLS_PER_S
        elif any(endpoint.share for endpoint in endpoints):
            calls_per_s = CALLS_PER_S
        elif self.acts.holding is not None and not any(e.replicas for e in endpoints):
            calls_per_s = HELD_CALLS_PER_S
        else:
            self.loop.later(LOOK_S / 4, self._call_of_share)
            return
        for _ in range(self.acts.burst(self.acting)):
            caller = self.acts.caller(self.acting)
            self._a_gateway().call(ENDPOINT, "org_1", self.acting.uniform(0.1, 1.0), caller)
        self.loop.later(self.acting.expovariate(calls_per_s), self._call_of_share)

    def _a_gateway(self) -> Gateway:
        """Whichever one a proxy in front of them all sends a request to."""
        gateways = self.site.gateways
        return gateways[0] if len(gateways) == 1 else self.acting.choice(gateways)

    def _mend(self) -> None:
        self.calm = True
        self.misfortune.calm()
        self.loop.later(LOOK_S, self._look)

    def _look(self) -> None:
        if at_rest(self.site, self.memory):
            self.rested = True
            return
        if self.acts.any:
            self._decide_on_canaries()
        self.loop.later(LOOK_S, self._look)

    def _decide_on_canaries(self) -> None:
        """A whole canary waits for somebody (R9); so somebody comes, in the end."""
        for row in self.memory.tables["deployments"].values():
            under_way = row["status"] == "in_progress" and not row["cancel_requested"]
            waits = row["traffic_percent"] is not None and row["promoted_at"] is None
            if under_way and waits and self.acting.random() < 0.25:
                kind = "promote" if self.acts.promotes else "cancel canary"
                self._ask(Wish(kind, str(row["id"])))

    def _routes_written(self, table: RouteTable) -> None:
        self.log.add(
            "routes",
            generation=table.generation,
            stale=table.generation <= self._generation,
            replicas=[r.replica_id for e in table.endpoints for r in e.replicas],
        )
        self._generation = max(self._generation, table.generation)
        self.site.gateway.published(table)

    def _committed(self, tx: Transaction, changes: list[Change]) -> None:
        process = current_process()
        name = "" if process is None else process.name
        for change in changes:
            if change.table in LOGGED:
                self.log.add(
                    "row",
                    name,
                    tx.epoch or 0,
                    table=change.table,
                    tx=tx.number,
                    key=change.key[0] if len(change.key) == 1 else change.key,
                    changed=_difference(change),
                    change=change,
                )


def _difference(change: Change) -> dict[str, object]:
    """What a reader of the log wants to see of a change."""
    if change.after is None:
        return {}
    before = change.before
    if before is None:
        return dict(change.after)
    return {name: value for name, value in change.after.items() if before[name] != value}
