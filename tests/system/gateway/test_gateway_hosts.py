"""Gateways on hosts of their own: tables from the database, drains that wait for every host, who may die (G5, G8)."""

import json
import os
import re
import signal
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import httpx
import pytest
from gateway_hosts import GatewayHost, gateway_host, restricted
from installation import ANSWERS, ENDPOINT, LIMIT_S, ORG, processes_of, until
from proxies import haproxy, nginx
from separate_roles import SeparateRoles, kill_postgres, own_postgres, separate

from s3 import running_s3
from weighbridge.routing.files import read_snapshot
from weighbridge.routing.model import RouteTable
from weighbridge.sdk import Client, ClientError, wait_for_deployment
from weighbridge.storage import embedded

pytestmark = pytest.mark.system

ROLES = {"agent": "agent", "gateway": "gateway", "api-1": "api", "ctl-1": "controller"}
REPLICAS_AT = "127.0.0.2"
EXIT_SETUP = 78
SETTLED_S = 4.0
DRAINS_MAX = 5


@dataclass
class Hosts:
    control: SeparateRoles
    database: Path
    url: str
    one: GatewayHost
    two: GatewayHost

    @property
    def both(self) -> tuple[GatewayHost, GatewayHost]:
        return self.one, self.two

    def other_version(self) -> int:
        with self.one.client() as client:
            return 2 if self.control.say(client) == ANSWERS[1] else 1


@pytest.fixture(scope="module")
def hosts(make_public_directory: Callable[[], Path]) -> Iterator[Hosts]:
    root, database = make_public_directory(), make_public_directory() / "postgres"
    with ExitStack() as stack:
        s3, url = stack.enter_context(running_s3()), stack.enter_context(own_postgres(database))
        site = separate(root / "control", s3, url, ROLES, WEIGHBRIDGE_REPLICA_HOST=REPLICAS_AT)
        (root / "control").mkdir()
        control = stack.enter_context(site)
        control.prepare()
        control.deploy(1)
        theirs = restricted(url)
        one = gateway_host(root / "one", control, theirs, WEIGHBRIDGE_CONTROL_URLS=control.url)
        two = gateway_host(root / "two", control, theirs, WEIGHBRIDGE_GATEWAY_WORKERS="2")
        yield Hosts(control, database, theirs, stack.enter_context(one), stack.enter_context(two))


def test_a_host_answers_by_the_tables_of_the_database_and_says_so(hosts: Hosts) -> None:
    replicas = {
        route.url.rpartition(":")[0] for host in hosts.both for route in routes(host).replicas
    }
    assert replicas == {f"http://{REPLICAS_AT}"}
    names = {host.row()["name"] for host in hosts.both} | {""}
    with hosts.control.client() as admin:
        until(
            lambda: {gateway["host"] for gateway in admin.admin.status().gateways} == names,
            what="the workers of each host",
        )
    until(lambda: [len(host.row()["workers"]) for host in hosts.both] == [1, 2])
    for host in hosts.both:
        with host.client() as client:
            assert hosts.control.say(client) in ANSWERS.values()


def test_management_is_passed_on_where_an_address_is_set_and_refused_where_none_is(
    hosts: Hosts,
) -> None:
    with hosts.one.client() as one, hosts.two.client() as two:
        assert len(one.versions.list(ORG, "llama-tiny")) == 2
        with pytest.raises(ClientError, match="control plane is away"):
            two.versions.list(ORG, "llama-tiny")


def test_a_key_that_is_revoked_is_refused_by_every_host(hosts: Hosts) -> None:
    with hosts.control.client() as admin:
        made = admin.admin.keys.create("inference", name="short", org_name=ORG)
        for host in hosts.both:
            until(lambda host=host: status_of(host, made.key) == 200, 10, "the new key")
        admin.admin.keys.revoke(made.id)
        for host in hosts.both:
            until(lambda host=host: status_of(host, made.key) == 401, 10, "its end")


def test_a_host_takes_other_settings_under_load_without_a_failed_stream_or_a_word_of_its_absence(
    hosts: Hosts,
) -> None:
    host = hosts.one
    before, row = host.process, host.row()
    with host.client() as client, hosts.control.traffic(client) as traffic:
        traffic.wait_for_answers(8, timeout_s=30)
        host.env["WEIGHBRIDGE_GATEWAY_WORKERS"] = "2"
        host.spawn("--take-over")
        facts = host.paths.run / "gateway.json"

        def followed() -> bool:
            assert host.row() is not None
            return json.loads(facts.read_text())["pid"] == host.process.pid

        until(followed, what="the gateway that follows")
        traffic.wait_for_answers(16, timeout_s=30)
    assert traffic.tally().clean, traffic.tally()
    assert before.wait(LIMIT_S) == 0  # its callers have gone
    until(lambda: len(host.row()["workers"]) == 2, what="the new workers alone")
    assert host.row()["epoch"] > row["epoch"]


def test_a_rolling_update_fails_no_stream_on_any_host(hosts: Hosts) -> None:
    new = hosts.other_version()
    with (
        hosts.control.client() as admin,
        hosts.one.client() as one,
        hosts.two.client() as two,
        hosts.control.traffic(one) as first,
        hosts.control.traffic(two) as second,
    ):
        for traffic in (first, second):
            traffic.wait_for_answers(8, timeout_s=30)
        deployment = hosts.control.ask_for(admin, new)
        wait_for_deployment(admin, ENDPOINT, deployment.id, timeout_s=90)
        for traffic in (first, second):
            traffic.wait_for_answers(16, timeout_s=30)
        for host in hosts.both:
            assert {route.version for route in routes(host).replicas} == {new}
    for traffic in (first, second):
        tally = traffic.tally()
        assert tally.clean, tally
        assert set(tally.answered) == {"1", "2"}


def test_what_was_used_on_each_host_is_counted_once(hosts: Hosts) -> None:
    settled(hosts.control)
    before = used(hosts.control)
    asked = {hosts.one: 3, hosts.two: 4}
    for host, times in asked.items():
        with host.client() as client:
            for _ in range(times):
                hosts.control.say(client)
    until(lambda: used(hosts.control) >= before + 7, what="the count")
    settled(hosts.control)
    assert used(hosts.control) == before + 7


def test_hosts_serve_on_without_the_database_and_take_up_again(hosts: Hosts) -> None:
    new = hosts.other_version()
    with (
        hosts.one.client() as one,
        hosts.two.client() as two,
        hosts.control.traffic(one) as first,
        hosts.control.traffic(two) as second,
    ):
        for traffic in (first, second):
            traffic.wait_for_answers(8, timeout_s=30)
        kill_postgres(hosts.database)
        for traffic in (first, second):
            traffic.wait_for_answers(24, timeout_s=30)
        until(lambda: "host.not_reported" in hosts.two.said(), 20, "that it notices")
        lost = told(hosts.two)
        embedded.start(hosts.database)
        with hosts.control.client() as admin:
            deployment = until(lambda: hosts.control.ask_for(admin, new), 60, "the control plane")
            wait_for_deployment(admin, ENDPOINT, deployment.id, timeout_s=90)
        for traffic in (first, second):
            traffic.wait_for_answers(16, timeout_s=30)
    for traffic in (first, second):
        assert traffic.tally().clean, traffic.tally()
    assert {route.version for host in hosts.both for route in routes(host).replicas} == {new}
    assert told(hosts.two).keys() == lost.keys() == {"tables_looked", "reported"}
    assert all(now > lost[name] > 0 for name, now in told(hosts.two).items())


def test_a_host_that_starts_while_the_database_is_away_serves_what_its_disk_has(
    hosts: Hosts,
) -> None:
    kill_postgres(hosts.database)
    try:
        hosts.two.kill()
        hosts.two.start()
        with hosts.two.client() as client:
            assert hosts.control.say(client) in ANSWERS.values()
    finally:
        embedded.start(hosts.database)
    until(lambda: (hosts.two.row() or {"expired": True})["expired"] is False, 30, "its reports")


def test_a_courier_that_is_killed_is_started_again_and_follows_the_one_before(
    hosts: Hosts,
) -> None:
    before = hosts.two.row()["epoch"]
    (courier,) = [
        pid
        for pid, command in processes_of(hosts.two.root).items()
        if "weighbridge.gateway.courier" in command
    ]
    os.kill(courier, signal.SIGKILL)
    until(lambda: hosts.two.row()["epoch"] == before + 1, 30, "its successor")
    assert hosts.two.ready()


def test_a_drain_waits_for_a_host_that_is_killed_until_its_lease_ends(hosts: Hosts) -> None:
    with (
        hosts.control.client() as admin,
        hosts.one.client() as one,
        hosts.control.traffic(one) as first,
    ):
        new, deployment_id = killed_in_a_drain(hosts, admin)
        ends_at = hosts.two.row()["expires_at"]
        wait_for_deployment(admin, ENDPOINT, deployment_id, timeout_s=120)
        first.wait_for_answers(8, timeout_s=30)
        assert finished_at(hosts, deployment_id) > ends_at
        assert hosts.two.row()["expired"]
    assert first.tally().clean, first.tally()
    hosts.two.start()
    assert {route.version for route in routes(hosts.two).replicas} == {new}
    with hosts.two.client() as two:
        assert hosts.control.say(two) == ANSWERS[new]
    assert not hosts.two.row()["expired"]


def killed_in_a_drain(hosts: Hosts, admin: Client) -> tuple[int, str]:
    """The second host, under streams; the drain goes on after it, that of quick answers may be over before.

    Where every drain was over before nothing has waited, and this fails.
    """
    for _ in range(DRAINS_MAX):
        until(lambda: not draining(hosts.control), 60, "the end of earlier drains")
        new = hosts.other_version()
        with hosts.two.client() as two, hosts.control.traffic(two) as second:
            second.wait_for_answers(8, timeout_s=30)
            deployment = hosts.control.ask_for(admin, new)
            seen = seen_draining(hosts, deployment.id)
            if not seen:
                continue  # each drain was over between two looks, and nobody was killed
            hosts.two.kill()
        (dead,) = hosts.control.rows("SELECT clock_timestamp() AS at")
        if draining(hosts.control) & seen:
            return new, deployment.id
        wait_for_deployment(admin, ENDPOINT, deployment.id, timeout_s=120)
        # Nothing else excuses a drain that has not waited.
        assert max(drains_ended_at(admin, deployment.id, seen)) < dead.at
        hosts.two.start()
    raise AssertionError(f"{DRAINS_MAX} drains were over before the host was killed")


def drains_ended_at(admin: Client, deployment_id: str, replica_ids: set[str]) -> list[datetime]:
    """Of these replicas, as the receipt has it: by the controller's clock, which is this machine's."""
    return [
        datetime.fromisoformat(str(told["at"]))
        for told in admin.receipts.get(deployment_id).payloads
        if told.get("replica") in replica_ids and told.get("state") == "stopping"
    ]


def seen_draining(hosts: Hosts, deployment_id: str) -> set[str]:
    """The first replicas that are met so; none when the deployment was over before any was."""
    seen: set[str] = set()

    def look() -> bool:
        seen.update(draining(hosts.control))
        return bool(seen) or finished_at(hosts, deployment_id) is not None

    until(look, 60, "a drain")
    return seen


def finished_at(hosts: Hosts, deployment_id: str) -> datetime | None:
    (row,) = hosts.control.rows(f"SELECT finished_at FROM deployments WHERE id = '{deployment_id}'")
    return row.finished_at


def test_a_host_that_stops_in_order_is_waited_for_by_nobody(hosts: Hosts) -> None:
    hosts.two.stop()
    assert hosts.two.row() is None
    hosts.two.start()


@pytest.mark.parametrize("proxy", [nginx, haproxy], ids=["nginx", "haproxy"])
def test_behind_a_proxy_requests_go_on_when_a_host_dies(
    hosts: Hosts, make_public_directory: Callable[[], Path], proxy: Callable
) -> None:
    """One at a time, none is open when it dies; the proxy finds the other without a word."""
    with proxy(make_public_directory(), hosts.both) as front:
        context = ssl.create_default_context(cafile=str(front.certificate))
        headers = {"authorization": f"Bearer {hosts.control.inference_key}"}
        with httpx.Client(
            verify=context, base_url=front.url, headers=headers, timeout=30
        ) as client:

            def asked(times: int) -> list[int]:
                return [client.get("/v1/models").status_code for _ in range(times)]

            until(lambda: asked(1) == [200], 20, "the gateways behind it")
            assert asked(8) == [200] * 8
            hosts.one.kill()
            assert asked(16) == [200] * 16
            hosts.one.start()
            assert asked(8) == [200] * 8


@pytest.mark.parametrize("pepper", [None, b"p" * 32], ids=["without", "with another"])
def test_a_host_with_the_wrong_pepper_refuses_to_start(
    hosts: Hosts, tmp_path: Path, pepper: bytes | None
) -> None:
    host = GatewayHost(tmp_path, hosts.control, hosts.url)
    if pepper is not None:
        host.paths.secrets.mkdir(parents=True)
        (host.paths.secrets / "pepper").write_bytes(pepper)
    assert host.spawn().wait(60) == EXIT_SETUP
    assert "copy secrets/pepper" in host.said().splitlines()[-1]
    assert host.row() is None


def draining(site: SeparateRoles) -> set[str]:
    return {row.id for row in site.rows("SELECT id FROM replicas WHERE state = 'draining'")}


def used(site: SeparateRoles) -> int:
    (row,) = site.rows("SELECT coalesce(sum(requests), 0) AS requests FROM usage_hourly")
    return int(row.requests)


def settled(site: SeparateRoles) -> None:
    """Spools are written each second and counted each two; what is not there after that never comes."""
    last, seen_s = used(site), time.monotonic()
    while time.monotonic() < seen_s + SETTLED_S:
        time.sleep(0.2)
        if (now := used(site)) != last:
            last, seen_s = now, time.monotonic()


def routes(host: GatewayHost):
    table = read_snapshot(host.paths.routes_file, RouteTable)
    assert table is not None
    (endpoint,) = table.endpoints
    return endpoint


def told(host: GatewayHost) -> dict[str, float]:
    """What the probe port says of the courier."""
    text = httpx.get(f"http://127.0.0.1:{host.probe_port}/metrics").text
    found = re.findall(
        r"^weighbridge_gateway_host_(\w+)_timestamp_seconds (\S+)$", text, re.MULTILINE
    )
    return {name: float(value) for name, value in found}


def status_of(host: GatewayHost, key: str) -> int:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.get(f"{host.url}/v1/models", headers=headers).status_code
