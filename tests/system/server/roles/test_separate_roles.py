"""Two apis and two controllers on one PostgreSQL: when one dies or freezes the other goes on, without harm (D5)."""

import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from installation import ANSWERS, ENDPOINT, ORG, until, weighbridge
from separate_roles import SeparateRoles, own_postgres, separate
from sqlalchemy import create_engine, text

from s3 import running_s3
from weighbridge.routing.files import read_snapshot
from weighbridge.routing.model import RouteTable
from weighbridge.sdk import Client, wait_for_deployment
from weighbridge.server.roles.leading import CONTROLLER_RENEW_S, CONTROLLER_TTL_S
from weighbridge.server.services import accepts_unix
from weighbridge.storage.database import driver_url
from weighbridge.storage.schema.support import OLDEST_PROGRAM

pytestmark = pytest.mark.system

TAKEOVER_S = CONTROLLER_TTL_S + CONTROLLER_RENEW_S + 5.0


@pytest.fixture(scope="module")
def site(make_public_directory: Callable[[], Path]) -> Iterator[SeparateRoles]:
    root, database = make_public_directory(), make_public_directory() / "postgres"
    with running_s3() as s3, own_postgres(database) as url, separate(root, s3, url) as running:
        running.prepare()
        running.deploy(1)
        yield running


@pytest.fixture
def client(site: SeparateRoles) -> Iterator[Client]:
    with site.client(retries_max=0) as one:
        yield one


def test_one_controller_leads_and_what_an_api_accepts_wakes_it(site, client):
    assert site.leader() in ("ctl-1", "ctl-2")
    assert site.say(client) == ANSWERS[1]
    assert "wake.deaf" not in site.said("ctl-1") + site.said("ctl-2")


def test_an_api_that_is_killed_costs_nobody_an_answer(site, client):
    for name in ("api-1", "api-2"):
        site.kill_role(name)
        assert [len(client.versions.list(ORG, "llama-tiny")) for _ in range(6)] == [2] * 6
        site.serve(name)
        until(partial(accepts_unix, site.paths.api_socket(name)), what=name)


def test_a_controller_that_is_killed_in_a_rollout_is_followed_by_the_other(site, client):
    leader = site.leader()
    other = other_of(leader)
    with site.traffic(client) as traffic:
        traffic.wait_for_answers(8, timeout_s=30)
        deployment = site.ask_for(client, other_version(site, client))
        until(
            lambda: client.deployments.get(deployment.id).updated_replicas == 1,
            what="one new replica",
        )
        site.kill_role(leader)
        until(lambda: site.leader() == other, TAKEOVER_S, "the takeover")
        wait_for_deployment(client, ENDPOINT, deployment.id, timeout_s=60)
        traffic.wait_for_answers(8, timeout_s=30)
    assert traffic.tally().clean, traffic.tally()
    began = site.said(leader).count("control.ready")
    site.serve(leader)
    until(lambda: site.said(leader).count("control.ready") > began, what=leader)


def test_a_controller_that_was_frozen_past_its_lease_can_do_no_harm(site, client):
    leader = site.leader()
    other = other_of(leader)
    new = other_version(site, client)
    with site.traffic(client) as traffic:
        traffic.wait_for_answers(8, timeout_s=30)
        deployment = site.ask_for(client, new)
        until(
            lambda: client.deployments.get(deployment.id).updated_replicas == 1,
            what="one new replica",
        )
        frozen = site.processes[leader]
        os.kill(frozen.pid, signal.SIGSTOP)
        until(lambda: site.leader() == other, TAKEOVER_S, "the takeover")
        wait_for_deployment(client, ENDPOINT, deployment.id, timeout_s=60)
        until(lambda: is_settled(site, client), what="the end of the old replicas")
        before, engines = routes(site), site.engines()
        os.kill(frozen.pid, signal.SIGCONT)
        until(lambda: "lease.lost" in site.said(leader), 30, "that it knows")
        traffic.wait_for_answers(16, timeout_s=30)
        assert site.leader() == other
        assert site.engines() == engines
        after = routes(site)
        assert (after.generation, after.endpoints) == (before.generation, before.endpoints)
    assert traffic.tally().clean, traffic.tally()
    assert site.say(client) == ANSWERS[new]
    assert is_settled(site, client)


def test_an_upgrade_role_by_role_fails_no_request_and_no_answer_of_an_api(site, client):
    """Also over a schema that a newer program has extended, for as long as that one carries this one."""
    set_schema(site, "0999", oldest=1)
    with site.traffic(client) as traffic:
        traffic.wait_for_answers(8, timeout_s=30)
        for name in ("api-1", "ctl-1", "api-2", "ctl-2"):
            process = site.processes[name]
            process.send_signal(signal.SIGTERM)
            while process.poll() is None:
                assert len(client.versions.list(ORG, "llama-tiny")) == 2
            assert process.returncode == 0
            began = site.said(name).count("control.ready")
            site.serve(name)
            until(partial(is_back, site, name, began), what=name)
        traffic.wait_for_answers(8, timeout_s=30)
    assert traffic.tally().clean, traffic.tally()
    until(site.leader, TAKEOVER_S, "a leader")
    set_schema(site, "0999", oldest=999)
    refused = weighbridge(site.env, "serve", "--roles", "api", "--name", "api-3")
    assert refused.returncode == 78
    assert "at schema 0999, which this Weighbridge does not know" in refused.stderr
    set_schema(site, "0001", oldest=1)


def test_a_start_that_finds_the_database_away_is_one_to_try_again(site):
    """A service manager does, unless the exit code says that it is of no use."""
    away = "postgresql://u:secret@/main?host=/var/empty/nobody"
    env = {**site.env, "WEIGHBRIDGE_DATABASE_URL": away}
    ended = weighbridge(env, "serve", "--roles", "api,controller,gateway", "--name", "late")
    assert ended.returncode == 6, ended.stderr
    assert "The database at /var/empty/nobody/main cannot be used: connection" in ended.stderr
    assert "secret" not in ended.stderr


def is_back(site: SeparateRoles, name: str, began: int) -> bool:
    if name.startswith("api"):
        return accepts_unix(site.paths.api_socket(name))
    return site.said(name).count("control.ready") > began


def set_schema(site: SeparateRoles, schema: str, *, oldest: int) -> None:
    """As the migration of another version leaves it."""
    engine = create_engine(driver_url(site.database_url))
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :at"), {"at": schema})
        named = {"name": OLDEST_PROGRAM, "oldest": oldest}
        connection.execute(text("UPDATE counters SET value = :oldest WHERE name = :name"), named)
    engine.dispose()


def is_settled(site: SeparateRoles, client: Client) -> bool:
    """Two replicas are ready, they are those whose engines live, and the gateways know of no rollout."""
    ready = set(site.ready_replicas(client))
    rolling = any(endpoint.rolling_out for endpoint in routes(site).endpoints)
    return len(ready) == 2 and ready == set(site.engines()) and not rolling


def routes(site: SeparateRoles) -> RouteTable:
    found = read_snapshot(site.paths.routes_file, RouteTable)
    assert found is not None
    return found


def other_of(name: str) -> str:
    assert name in ("ctl-1", "ctl-2")
    return "ctl-2" if name == "ctl-1" else "ctl-1"


def other_version(site: SeparateRoles, client: Client) -> int:
    return 2 if site.say(client) == ANSWERS[1] else 1
