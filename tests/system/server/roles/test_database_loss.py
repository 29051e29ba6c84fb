"""A real PostgreSQL that is killed, and one whose standby is promoted, in a sync and a rollout (D8)."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from installation import ANSWERS, ENDPOINT, ORG, until
from separate_roles import SeparateRoles, kill_postgres, separate
from sqlalchemy import create_engine, text
from wide_version import SLOW_SYNC, is_under_way, upload_wide

from s3 import running_s3
from weighbridge.sdk import Client, UnavailableError, wait_for_deployment, wait_for_sync
from weighbridge.storage import embedded
from weighbridge.storage.database import driver_url

pytestmark = pytest.mark.system


@dataclass
class Pair:
    """A primary and a standby that has every commit before it is acknowledged (D1)."""

    primary: Path
    standby: Path

    @property
    def url(self) -> str:
        return f"postgresql://postgres@/postgres?host={self.primary}:5432&host={self.standby}:5432"

    def start(self) -> None:
        alone = embedded.start(self.primary)
        owner = embedded._owner()
        self.standby.mkdir(mode=0o700)
        if owner is not None:
            os.chown(self.standby, owner.pw_uid, owner.pw_gid)
        copy = ("-h", self.primary, "-U", "postgres", "-D", self.standby, "-R", "-X", "stream")
        self.run("pg_basebackup", *copy, "-c", "fast")
        embedded.start(self.standby)
        engine = create_engine(driver_url(alone), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text("ALTER SYSTEM SET synchronous_standby_names = '*'"))
            connection.execute(text("SELECT pg_reload_conf()"))
        engine.dispose()

    def promote(self) -> None:
        self.run("pg_ctl", "-w", "-D", self.standby, "promote")

    def run(self, program: str, *arguments: object) -> None:
        owner = embedded._owner()
        embedded._run(embedded._programs(owner), owner, self.standby, program, *arguments)

    def stop(self) -> None:
        for directory in (self.primary, self.standby):
            embedded.stop(directory)


@pytest.fixture(scope="module")
def pair(make_public_directory: Callable[[], Path]) -> Iterator[Pair]:
    parent = make_public_directory()
    made = Pair(parent / "one", parent / "two")
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def site(make_public_directory: Callable[[], Path], pair: Pair) -> Iterator[SeparateRoles]:
    root = make_public_directory()
    with running_s3() as s3, separate(root, s3, pair.url, **SLOW_SYNC) as running:
        running.prepare()
        running.deploy(1)
        yield running


@pytest.fixture
def client(site: SeparateRoles) -> Iterator[Client]:
    with site.client(retries_max=0) as one:
        yield one


def test_a_database_that_is_killed_and_started_again_costs_no_answer_and_no_progress(
    site, client, pair
):
    version = upload_wide(site, client, "wide-1")
    with site.traffic(client) as traffic:
        traffic.wait_for_answers(8, timeout_s=30)
        deployment = begin_rollout(site, client, 2)
        until(lambda: is_under_way(client, version.name), what="some bytes synced")
        kill_postgres(pair.primary)
        assert is_refused(client)
        traffic.wait_for_answers(16, timeout_s=30)
        embedded.start(pair.primary)
        wait_for_deployment(client, ENDPOINT, deployment, timeout_s=90)
        traffic.wait_for_answers(8, timeout_s=30)
    assert traffic.tally().clean, traffic.tally()
    assert wait_for_sync(client, version.name, timeout_s=90).sync_status == "done"
    assert site.say(client) == ANSWERS[2]


def test_when_the_standby_is_promoted_everybody_goes_over_to_it_and_nothing_accepted_is_lost(
    site, client, pair
):
    version = upload_wide(site, client, "wide-2")
    with site.traffic(client) as traffic:
        traffic.wait_for_answers(8, timeout_s=30)
        deployment = begin_rollout(site, client, 1)
        until(lambda: is_under_way(client, version.name), what="some bytes synced")
        kill_postgres(pair.primary)
        assert is_refused(client)
        pair.promote()
        promoted_s = time.monotonic()
        until(lambda: client.deployments.get(deployment), what="an answer of the new primary")
        assert time.monotonic() - promoted_s < 30
        wait_for_deployment(client, ENDPOINT, deployment, timeout_s=90)
        traffic.wait_for_answers(8, timeout_s=30)
    assert traffic.tally().clean, traffic.tally()
    synced = wait_for_sync(client, version.name, timeout_s=90)
    assert synced.sync_status == "done"
    assert synced.progress.bytes_done == synced.progress.bytes_total
    assert site.say(client) == ANSWERS[1]
    ready = set(site.ready_replicas(client))
    assert len(ready) == 2
    assert ready == set(site.engines())


def begin_rollout(site: SeparateRoles, client: Client, version: int) -> str:
    """Its id, once the first new replica serves."""
    deployment = site.ask_for(client, version)
    until(lambda: client.deployments.get(deployment.id).updated_replicas == 1, what="one replica")
    return deployment.id


def is_refused(client: Client) -> bool:
    """Management is, with a word why; nothing is half done."""
    with pytest.raises(UnavailableError, match="database"):
        client.versions.list(ORG, "llama-tiny")
    return True
