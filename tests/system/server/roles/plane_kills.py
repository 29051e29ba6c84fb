"""Three control planes on one PostgreSQL that die and freeze at random while rollouts and uploads go on.

    PYTHONPATH=tests:tests/system python tests/system/server/roles/plane_kills.py --minutes 10 --seed 1 [--evidence]

The same seed draws the same faults; what falls where is the machine's to decide.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from installation import ARCH, BUCKET, ENDPOINT, LIMIT_S, MODELS, ORG, until
from plane_report import PLANES, Report
from plane_watch import Watch
from separate_roles import SeparateRoles, own_postgres, separate
from wide_version import SLOW_SYNC

from s3 import running_s3
from safetensors_files import encode, header_of
from weighbridge.sdk import Client, ClientError, NotFoundError
from weighbridge.sdk.receipts.verify import examine
from weighbridge.server.roles.leading import CONTROLLER_RENEW_S, CONTROLLER_TTL_S
from weighbridge.server.services import accepts_unix
from weighbridge.weights.tensors import TensorSpec

ROLES = {"agent": "agent", "gateway": "gateway", **dict.fromkeys(PLANES, "api,controller")}
ENDPOINTS = (ENDPOINT, "acme-second")
WIDE = "wide"
WIDE_TENSOR = TensorSpec("wide", "F32", (512, 1024))
VERSIONS_KEPT = 4
TAKEOVER_S = CONTROLLER_TTL_S + CONTROLLER_RENEW_S + 10.0
"""Until somebody leads, when any plane lives: the lease runs out, another looks, on a busy machine."""
FROZEN_MAX_S = 23.0
"""Nearly three leases."""
ROLLOUT_LIMIT_S = 180.0
CALL_LIMIT_S = 120.0
SEALED_LIMIT_S = 120.0
EVIDENCE = Path(__file__).parents[4] / "docs/evidence"
FAULTS = {"leader killed": 5, "any killed": 2, "leader frozen": 2, "two killed": 1, "all killed": 1}


class Course:
    """The work that goes on, the faults, and what is demanded of both."""

    def __init__(self, site: SeparateRoles, watch: Watch, seed: int) -> None:
        self.site, self.watch = site, watch
        self.report = Report(seed, checks=watch.checks, breaches=watch.breaches)
        self._seed = seed
        self._chance = random.Random(seed)
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._asked: dict[str, str] = {}
        self._uploaded: dict[str, tuple[str, bytes]] = {}
        self._deleted: set[str] = set()
        self._broken: list[str] = []
        self._frozen: set[str] = set()

    def play(self, lasts_s: float) -> Report:
        began_s = time.monotonic()
        workers = [
            *(threading.Thread(target=self._guard, args=(self._roll, e)) for e in ENDPOINTS),
            threading.Thread(target=self._guard, args=(self._upload,)),
        ]
        with self.site.client(retries_max=0) as client, self.site.traffic(client) as traffic:
            traffic.wait_for_answers(8, timeout_s=LIMIT_S)
            for worker in workers:
                worker.start()
            try:
                while time.monotonic() - began_s < lasts_s and not self._broken:
                    self._fault()
            finally:
                self._over.set()
                self._mend()
                for worker in workers:
                    worker.join()
            traffic.wait_for_answers(8, timeout_s=LIMIT_S)
        self.report.tally = traffic.tally()
        self.report.lasted_s = time.monotonic() - began_s
        self.watch.demand("G7", self.report.tally.clean, str(self.report.tally))
        for words in self._broken:
            self.watch.demand("B0", False, words)
        self._settle()
        self.report.leases = self.watch.leaders
        return self.report

    def _guard(self, work: Callable[..., None], *given: str) -> None:
        """A worker that breaks ends the course, with its words."""
        try:
            work(*given)
        except Exception as error:  # noqa: BLE001 - the course is told, and fails
            self._broken.append(f"{work.__name__}{given}: {error!r}")

    # --- faults

    def _fault(self) -> None:
        if self._over.wait(self._chance.uniform(0.5, 4.0)):
            return
        kind = self._chance.choices(list(FAULTS), list(FAULTS.values()))[0]
        down_s = self._chance.uniform(0.1, 8.0)
        leader = self.site.leader() or PLANES[0]
        self.report.faults[kind] += 1
        match kind:
            case "leader killed":
                doomed = [leader]
            case "any killed":
                doomed = [self._chance.choice(PLANES)]
            case "two killed":
                doomed = [leader, self._chance.choice([p for p in PLANES if p != leader])]
            case "all killed":
                doomed = list(PLANES)
            case _:
                self._freeze(leader, self._chance.uniform(1.0, FROZEN_MAX_S))
                return
        for name in doomed:
            self.site.kill_role(name)
        self.report.kills += len(doomed)
        alone = len(doomed) < len(PLANES)
        killed_s = time.monotonic()
        if alone and self._chance.random() < 0.5:
            # Longer than a lease: another plane has to take over.
            self._wait_for_leader(killed_s)
        else:
            time.sleep(down_s)
        for name in doomed:
            self.site.serve(name)
        if not alone:
            until(lambda: any(map(self._is_up, PLANES)), what="a control plane")
            killed_s = time.monotonic()
        self._wait_for_leader(killed_s)

    def _freeze(self, name: str, lasts_s: float) -> None:
        process = self.site.processes[name]
        self._frozen.add(name)
        os.kill(process.pid, signal.SIGSTOP)
        try:
            time.sleep(lasts_s)
        finally:
            os.kill(process.pid, signal.SIGCONT)
            self._frozen.discard(name)
        self._wait_for_leader(time.monotonic())

    def _wait_for_leader(self, since_s: float) -> None:
        """Somebody who lives leads within the time of a lease and a look (D2)."""
        while not self._leads():
            took_s = time.monotonic() - since_s
            if took_s > TAKEOVER_S:
                break
            time.sleep(0.05)
        took_s = time.monotonic() - since_s
        self.report.takeovers_s.append(took_s)
        self.watch.demand("D2", took_s <= TAKEOVER_S, f"nobody led for {took_s:.0f} s")

    def _is_up(self, name: str) -> bool:
        return accepts_unix(self.site.paths.api_socket(name))

    def _leads(self) -> bool:
        leader = self.site.leader()
        process = self.site.processes.get(leader)
        return process is not None and process.poll() is None and leader not in self._frozen

    def _mend(self) -> None:
        for name in PLANES:
            if self.site.processes[name].poll() is not None:
                self.site.serve(name)

    # --- work

    def _call(self, call: Callable[[], object]) -> object:
        """Again until it is answered: nothing is known of a call whose plane has died."""
        deadline_s = time.monotonic() + CALL_LIMIT_S
        while True:
            try:
                return call()
            except NotFoundError:
                raise
            except ClientError as error:
                if time.monotonic() > deadline_s or not _passes(error):
                    raise
                self.report.calls_repeated += 1
                time.sleep(0.1)

    def _roll(self, endpoint: str) -> None:
        """One rollout after the other; now and then two are queued at once."""
        chance = random.Random(f"{self._seed}-{endpoint}")
        number, version = 0, 1
        with self.site.client(retries_max=0) as client:
            while not self._over.is_set():
                asked = []
                for _ in range(2 if chance.random() < 0.25 else 1):
                    number, version = number + 1, 3 - version
                    asked.append(self._deploy(client, endpoint, version, number))
                for deployment in asked:
                    self._follow(client, deployment)

    def _deploy(self, client: Client, endpoint: str, version: int, number: int) -> str:
        key = f"{self._seed}-{endpoint}-{number}"
        name = f"orgs/{ORG}/models/{ARCH}/versions/{version}"

        def deploy() -> object:
            return client.endpoints.deploy(endpoint, name, idempotency_key=key)

        deployment = self._call(deploy).id
        again = self._call(deploy).id
        self.watch.demand("D7", again == deployment, f"{key} gave {deployment}, then {again}")
        with self._lock:
            self._asked[deployment] = endpoint
        return deployment

    def _follow(self, client: Client, deployment: str) -> None:
        began_s = time.monotonic()
        course: dict[str, str] = {}
        while not (found := self._call(lambda: client.deployments.get(deployment))).final:
            took_s = time.monotonic() - began_s
            course.setdefault(found.reason, f"{took_s:.0f} s: {found.reason}")
            if took_s > ROLLOUT_LIMIT_S:
                late = f"{deployment} has not ended: {', '.join(course.values())}"
                self.watch.demand("R9", False, late)
                return
            time.sleep(0.2)
        took_s = time.monotonic() - began_s
        self.report.rollout_longest_s = max(self.report.rollout_longest_s, took_s)
        ended_well = found.succeeded
        self.watch.demand(
            "R9", ended_well, f"{deployment} ended {found.state}: {found.error_message}"
        )

    def _upload(self) -> None:
        """New weights again and again; what is old is deleted."""
        chance = random.Random(f"{self._seed}-uploads")
        names: list[str] = []
        number = 0
        with self.site.client(retries_max=0) as client:
            while not self._over.is_set():
                number += 1
                content = chance.randbytes(512 * 1024 * 4)
                self.site.s3.put(
                    BUCKET,
                    f"{WIDE}-{number}/model.safetensors",
                    encode(header_of([WIDE_TENSOR]), content),
                )
                name = self._put(client, number)
                with self._lock:
                    self._uploaded[name] = (str(number), content)
                self._await_sync(client, name)
                names.append(name)
                if len(names) > VERSIONS_KEPT:
                    self._delete(client, names.pop(0))
                self._over.wait(chance.uniform(0.0, 2.0))

    def _put(self, client: Client, number: int) -> str:
        def put() -> object:
            return client.models.upload(
                ORG,
                WIDE,
                f"s3://{BUCKET}/{WIDE}-{number}",
                idempotency_key=f"{self._seed}-upload-{number}",
            )

        name = self._call(put).name
        again = self._call(put).name
        self.watch.demand("D7", str(again) == str(name), f"upload {number}: {name}, then {again}")
        return str(name)

    def _await_sync(self, client: Client, name: str) -> None:
        began_s = time.monotonic()
        while not (found := self._call(lambda: client.versions.get(name))).done:
            if time.monotonic() - began_s > ROLLOUT_LIMIT_S:
                self.watch.demand("W5", False, f"{name} is not synced: {found.raw}")
                return
            time.sleep(0.1)
        self.watch.demand("W5", found.succeeded, f"{name}: {found.raw}")

    def _delete(self, client: Client, name: str) -> None:
        with suppress(NotFoundError):  # when the first try was carried out
            self._call(lambda: client.versions.delete(name))
        self._deleted.add(name)
        try:
            found = self._call(lambda: client.versions.get(name))
        except NotFoundError:
            found = None
        self.watch.demand("V7", found is None, f"{name} is shown after its deletion")

    # --- at the end

    def _settle(self) -> None:
        """Everything asked for is there, ended and told of; what runs is what the rows say."""
        for name in PLANES:
            until(partial(self._is_up, name), what=name)
        with self.site.client() as client:
            until(lambda: self._is_whole(client), 60, "two living replicas of each endpoint")
            self._deployments_are_those_asked_for(client)
            self._versions_are_those_uploaded(client)

    def _is_whole(self, client: Client) -> bool:
        ready = {
            one for endpoint in ENDPOINTS for one in self.site.ready_replicas(client, endpoint)
        }
        return len(ready) == 2 * len(ENDPOINTS) and ready == set(self.site.engines())

    def _deployments_are_those_asked_for(self, client: Client) -> None:
        rows = self.site.rows("SELECT id, status FROM deployments")
        self.report.deployments.update(status for _, status in rows)
        kept = {row_id for row_id, _ in rows}
        lost = self._asked.keys() - kept
        self.watch.demand("D1", not lost, f"accepted deployments are gone: {lost}")
        # Besides those, each endpoint had its first.
        more = len(kept) - len(self._asked) - len(ENDPOINTS)
        self.watch.demand("D7", more == 0, f"{more} deployments that nobody asked for")
        for deployment in sorted(kept):
            until(lambda: client.receipts.get(deployment).sealed, SEALED_LIMIT_S, "a seal")  # noqa: B023
            verdict = examine(client.receipts.get(deployment))
            words = f"receipt of {deployment}: {verdict.findings}"
            self.watch.demand("receipts", verdict.intact and verdict.sealed, words)
            self.report.receipts += 1

    def _versions_are_those_uploaded(self, client: Client) -> None:
        listed = {str(one.name): one for one in client.versions.list(ORG, WIDE)}
        expected = self._uploaded.keys() - self._deleted
        self.watch.demand(
            "D1", listed.keys() == expected, f"versions {listed.keys() ^ expected} differ"
        )
        self.report.versions["deleted"] = len(self._deleted)
        for name, version in listed.items():
            self.report.versions[version.sync_status] += 1
            path = self.site.paths.store / f"versions/{version.digest}/model.safetensors"
            _, content = self._uploaded[name]
            whole = path.is_file() and path.read_bytes().endswith(content)
            self.watch.demand("W2", whole, f"{name} is not what was uploaded")


def _passes(error: ClientError) -> bool:
    """Away, or away in the middle; an answer that says what is wrong with the call is none of it."""
    status = getattr(error, "status", None)
    return status is None or status >= 500 or status in (409, 429)


def prepare(site: SeparateRoles) -> None:
    """Two endpoints that serve, and an architecture for what is uploaded."""
    site.prepare()
    base = site.root / WIDE
    shutil.copytree(MODELS / "llama-v1", base)
    zeros = bytes(512 * 1024 * 4)
    (base / "model.safetensors").write_bytes(encode(header_of([WIDE_TENSOR]), zeros))
    with site.client() as client:
        client.admin.architectures.register(WIDE, str(base))
        client.admin.endpoints.create(ENDPOINTS[1], org_name=ORG, model_arch_id=ARCH, replicas=2)
    for endpoint in ENDPOINTS:
        site.deploy(1, endpoint)


def play(root: Path, postgres: Path, *, lasts_s: float, seed: int) -> Report:
    """In directories that other users may enter."""
    with (
        running_s3() as s3,
        own_postgres(postgres) as url,
        separate(root, s3, url, ROLES, **SLOW_SYNC) as site,
    ):
        prepare(site)
        with Watch(site) as watch:
            report = Course(site, watch, seed).play(lasts_s)
        sys.stdout.write(json.dumps(report.document(), indent=1) + "\n")
        return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--evidence", action="store_true", help="write docs/evidence")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wb-", dir="/var/tmp") as name:
        root = Path(name)
        root.chmod(0o755)
        (root / "site").mkdir(mode=0o755)
        lasts_s = given.minutes * 60
        report = play(root / "site", root / "postgres", lasts_s=lasts_s, seed=given.seed)
    if given.evidence:
        report.write(EVIDENCE)
    return 1 if report.breaches else 0


if __name__ == "__main__":
    sys.exit(main())
