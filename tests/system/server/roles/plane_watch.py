"""Looks at the rows of an installation all the time, and notes where they break an invariant."""

import threading
from collections import Counter, defaultdict
from contextlib import suppress
from typing import Self

from separate_roles import SeparateRoles
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError

from weighbridge.replicas.store import FINAL as REPLICA_FINAL
from weighbridge.rollouts.model import RolloutStatus
from weighbridge.runtimes.node import ENGINE_ROLE
from weighbridge.runtimes.processes import find_marked
from weighbridge.storage.database import driver_url

LOOK_S = 0.1
LOOKS_PER_PROCESS_LOOK = 10
BREACHES_MAX = 50
ENDED_BADLY_S = 60.0
"""What failed so lately may still be missing: nothing voluntary is to blame (R2)."""
_FINAL = tuple(status.value for status in RolloutStatus if status.final)
_ACTIVE = (RolloutStatus.IN_PROGRESS.value, RolloutStatus.ROLLING_BACK.value)

_QUERIES = {
    "endpoints": "SELECT id, replicas, max_unavailable, max_surge FROM endpoints WHERE deleted_at IS NULL",
    "replicas": "SELECT endpoint_id, version_number, state, slot FROM replicas "
    f"WHERE state NOT IN {tuple(state.value for state in REPLICA_FINAL)}",
    "ended_badly": "SELECT DISTINCT endpoint_id FROM replicas WHERE state IN ('failed', 'lost') "
    f"AND state_since > now() - interval '{ENDED_BADLY_S:g} s'",
    "deployments": "SELECT id, endpoint_id, status, replicas, updated_replicas FROM deployments",
    "versions": "SELECT id, org_id, arch_id, number, status, manifest_digest FROM model_versions",
    "lease": "SELECT holder, epoch FROM leases WHERE name = 'controller'",
}


class Watch:
    """`checks` counts how often each invariant was looked at; `breaches` says in words what was seen."""

    def __init__(self, site: SeparateRoles) -> None:
        self.checks: Counter[str] = Counter()
        self.breaches: list[str] = []
        self.leaders = 0
        self._site = site
        self._engine = create_engine(
            driver_url(site.database_url), isolation_level="REPEATABLE READ"
        )
        self._versions: dict[tuple[str, str, int], tuple[str, str, str | None]] = {}
        self._ended: dict[str, str] = {}
        self._epoch = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._engine.dispose()

    def demand(self, invariant: str, holds: object, words: str) -> None:
        self.checks[invariant] += 1
        if not holds and len(self.breaches) < BREACHES_MAX:
            told = f"{invariant}: {words}"
            if told not in self.breaches:
                self.breaches.append(told)

    def _run(self) -> None:
        looks = 0
        while not self._over.wait(LOOK_S):
            with suppress(DBAPIError):
                self._look()
            looks += 1
            if looks % LOOKS_PER_PROCESS_LOOK == 0:
                self._look_at_processes()

    def _look(self) -> None:
        with self._engine.connect() as connection:
            rows = {name: list(connection.execute(text(q))) for name, q in _QUERIES.items()}
        self._replicas(rows)
        self._deployments(rows["deployments"])
        self._numbers(rows["versions"])
        for holder, epoch in rows["lease"]:
            self.demand("D5", epoch >= self._epoch, f"{holder} leads with epoch {epoch} again")
            self.leaders += epoch > self._epoch
            self._epoch = max(self._epoch, epoch)

    def _replicas(self, rows: dict) -> None:
        of_endpoint = defaultdict(list)
        for row in rows["replicas"]:
            of_endpoint[row.endpoint_id].append(row)
        ended_badly = {row.endpoint_id for row in rows["ended_badly"]}
        for endpoint in rows["endpoints"]:
            found = of_endpoint[endpoint.id]
            ready = [one for one in found if one.state == "ready"]
            floor = endpoint.replicas - endpoint.max_unavailable
            if endpoint.id not in ended_badly:
                self.demand(
                    "R2", len(ready) >= floor, f"{endpoint.id} has {len(ready)} of {floor} ready"
                )
            most = endpoint.replicas + endpoint.max_surge
            self.demand("R3", len(found) <= most, f"{endpoint.id} has {len(found)} of {most} slots")
            versions = {one.version_number for one in ready}
            self.demand("R6", len(versions) <= 2, f"{endpoint.id} serves versions {versions}")
        slots = [row.slot for row in rows["replicas"]]
        self.demand("R19", len(slots) == len(set(slots)), f"a slot is given twice: {slots}")

    def _deployments(self, found: list) -> None:
        active = Counter(row.endpoint_id for row in found if row.status in _ACTIVE)
        self.demand("R1", max(active.values(), default=0) <= 1, f"active rollouts: {active}")
        for row in found:
            if row.status in _FINAL:
                known = self._ended.setdefault(row.id, row.status)
                self.demand("R11", known == row.status, f"{row.id} was {known}, is {row.status}")
            if row.status == RolloutStatus.DONE.value:
                whole = row.updated_replicas == row.replicas
                self.demand("R10", whole, f"{row.id} is done with {row.updated_replicas}")

    def _numbers(self, found: list) -> None:
        numbers = defaultdict(set)
        for row in found:
            numbers[row.org_id, row.arch_id].add(row.number)
            name = (row.org_id, row.arch_id, row.number)
            known = self._versions.get(name)
            if known is not None:
                self.demand("V1", known[0] == row.id, f"number {name} is given to {row.id} too")
                if known[1] == "done":
                    same = known[1:] == (row.status, row.manifest_digest)
                    self.demand("V8", same, f"{name} was {known[1:]}, is {row.status}")
            self._versions[name] = (row.id, row.status, row.manifest_digest)
        for owner, given in numbers.items():
            self.demand("V2", given == set(range(1, len(given) + 1)), f"{owner} has {given}")
        missing = self._versions.keys() - {(r.org_id, r.arch_id, r.number) for r in found}
        self.demand("D1", not missing, f"versions are gone: {missing}")

    def _look_at_processes(self) -> None:
        marks = [
            (process.mark.name, process.mark.incarnation)
            for process in find_marked(self._site.run_dir)
            if process.mark.role == ENGINE_ROLE
        ]
        twice = [name for name, n in Counter(name for name, _ in set(marks)).items() if n > 1]
        self.demand("D4", not twice, f"processes twice: {twice}")
