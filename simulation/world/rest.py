"""Whether a mended world has come to rest: what was asked for is there, and nothing else is."""

from simulation.installation.site import Site
from simulation.memory.store import Memory
from weighbridge.runtimes.base import RuntimeState
from weighbridge.storage.tables import REPLICA_FINAL, ROLLOUT_FINAL


def at_rest(site: Site, memory: Memory) -> bool:
    return not unrest(site, memory)


def unrest(site: Site, memory: Memory) -> list[str]:
    """What keeps it from being at rest, in words; empty when nothing does."""
    tables = memory.tables
    found = [
        f"deployment {d['id']}"
        for d in tables["deployments"].values()
        if d["status"] not in ROLLOUT_FINAL
    ]
    found += [
        f"sync of {v['id']}"
        for v in tables["model_versions"].values()
        if v["status"] in ("queued", "in_progress")
    ]
    alive = {
        str(r["id"]): r for r in tables["replicas"].values() if r["state"] not in REPLICA_FINAL
    }
    found += [
        f"replica {name} is {r['state']}" for name, r in alive.items() if r["state"] != "ready"
    ]
    for endpoint in tables["endpoints"].values():
        ready = [r for r in alive.values() if r["endpoint_id"] == endpoint["id"]]
        wanted = endpoint["replicas"] if endpoint["base_deployment_id"] is not None else len(ready)
        if len(ready) != wanted:
            found.append(f"{len(ready)} replicas of {wanted}")
    found += [
        f"process {name} of nobody"
        for name, engine in site.machines.engines.items()
        if name not in alive and engine.state is not RuntimeState.EXITED
    ]
    table = site.routes.content
    routed = {r.replica_id for e in table.endpoints for r in e.replicas} if table else set()
    if routed != set(alive):
        found.append(f"routed: {sorted(routed)}, ready: {sorted(alive)}")
    generation = 0 if table is None else table.generation
    if len(site.gateways) > 1:
        found += [
            f"{name} counts as routed nowhere" for name, r in alive.items() if not r["routed_at"]
        ]
    found += [
        f"{worker.name} routes by {worker.tables.routes_generation} of {generation}"
        for gateway in site.gateways[1:]
        for worker in gateway.workers
        if not gateway.lost and worker.tables.routes_generation != generation
    ]
    if site.server.open:
        found.append("a transaction is open")
    return found
