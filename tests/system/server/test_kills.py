"""Whoever is killed with -9, the others go on, and what was lost comes back by itself (ARCHITECTURE.md)."""

import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from installation import (
    ANSWERS,
    ARCH,
    ENDPOINT,
    LONG_QUESTION,
    ORG,
    Installation,
    installed,
    processes_of,
    until,
)
from wide_version import SLOW_SYNC, is_under_way, upload_wide

from s3 import running_s3
from weighbridge.runtimes.processes import child_pids, identify, is_alive
from weighbridge.sdk import Client, ClientError, wait_for_deployment, wait_for_sync

pytestmark = pytest.mark.system

CALLERS = 4
REPLACED_S = 150.0
"""Each killed engine is a failure, and the pause before a replacement grows with them, up to a minute here."""


@pytest.fixture(scope="module")
def site(make_public_directory: Callable[[], Path]) -> Iterator[Installation]:
    with running_s3() as s3, installed(make_public_directory(), s3, **SLOW_SYNC) as running:
        running.prepare()
        running.deploy(1)
        yield running


@pytest.fixture
def client(site: Installation) -> Iterator[Client]:
    with site.client(retries_max=0) as one:
        yield one


@pytest.fixture(autouse=True)
def _whole_again(site: Installation, client: Client) -> Iterator[None]:
    """After each death everything is as before: two living replicas serve, and management answers."""
    yield
    until(lambda: is_whole(site, client), REPLACED_S, "two living replicas")
    assert until(lambda: site.say(client), 15, "an answer") in ANSWERS.values()


@contextmanager
def whole_answers(site: Installation) -> Iterator[Counter]:
    """Callers that want whole answers, without pause and without trying again; counts what they got."""
    stop, seen = threading.Event(), Counter()

    def call() -> None:
        messages = [{"role": "user", "content": LONG_QUESTION}]
        with site.client(retries_max=0) as own:
            while not stop.is_set():
                try:
                    answer = own.chat.create(ENDPOINT, messages, temperature=0)
                    seen["answered" if answer.text else "empty"] += 1
                except ClientError as error:
                    seen[f"{type(error).__name__}: {error.message}"] += 1

    threads = [threading.Thread(target=call) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: seen["answered"] >= CALLERS, what="first answers")
        yield seen
        goal = seen["answered"] + CALLERS
        until(lambda: seen["answered"] >= goal, what="answers afterwards")
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_sync_goes_on_when_the_control_process_is_killed(site, client):
    version = upload_wide(site, client)
    until(lambda: is_under_way(client, version.name), what="some bytes synced")
    killed = site.process("control")
    site.kill(killed)
    assert site.say(client) in ANSWERS.values()
    done = wait_for_sync(client, version.name, timeout_s=60)
    assert done.sync_status == "done"
    assert done.progress.bytes_done == done.progress.bytes_total
    assert site.process("control") != killed


def test_a_rollout_under_load_goes_on_when_the_control_process_is_killed(site, client):
    new = other_version(site, client)
    with site.traffic(client) as traffic:
        traffic.wait_for_answers(8, timeout_s=20)
        deployment = site.ask_for(client, new)
        until(lambda: updated_replicas(client, deployment.id) == 1, what="the first new replica")
        before = site.engines()
        site.kill(site.process("control"))
        wait_for_deployment(client, ENDPOINT, deployment.id, timeout_s=60)
        traffic.wait_for_answers(8, timeout_s=20)
    tally = traffic.tally()
    assert tally.clean, tally
    assert set(tally.answered) == {"1", "2"}
    serving = site.ready_replicas(client)
    adopted = {name: process for name, process in before.items() if name in serving}
    assert adopted
    now = site.engines()
    assert {name: now[name] for name in adopted} == adopted


def test_engines_end_with_the_node_agent_and_are_started_again(site, client):
    before = site.engines()
    assert len(before) == 2
    site.kill(site.process("agent"))
    until(lambda: not any(is_alive(engine) for engine in before.values()), 20, "engines' end")
    until(lambda: is_whole(site, client), REPLACED_S, "two living replicas")
    assert set(site.engines()).isdisjoint(before)


def test_a_gateway_worker_that_is_killed_is_replaced(site, client):
    parent = site.process("gateway")
    workers = child_pids(parent.pid)
    site.kill(identify(workers[0]))
    until(lambda: site.say(client), 15, "an answer")
    assert site.process("gateway") == parent
    assert set(child_pids(parent.pid)).isdisjoint(workers)


def test_a_gateway_whose_parent_is_killed_is_replaced_and_rollouts_go_on(site, client):
    parent = site.process("gateway")
    workers = [identify(pid) for pid in child_pids(parent.pid)]
    site.kill(parent)
    until(lambda: not any(is_alive(worker) for worker in workers), 30, "the old workers' end")
    until(lambda: site.say(client), 15, "an answer")
    new = other_version(site, client)
    site.deploy(new)
    assert site.say(client) == ANSWERS[new]


def test_whole_answers_come_from_the_other_replica_when_an_engine_is_killed(site, client):
    before = site.engines()
    with whole_answers(site) as seen:
        site.kill(next(iter(before.values())))
    assert set(seen) == {"answered"}, seen
    until(lambda: len(set(site.engines()) - set(before)) == 1, what="a replacement")


def test_streams_of_a_killed_engine_end_with_an_error_and_new_ones_do_not_fail(site, client):
    # An answer of the small model takes milliseconds: a kill can fall between two of them.
    for _ in range(5):
        tally = kill_a_busy_engine(site, client)
        assert tally.failed == 0, tally
        if tally.cut:
            break
    assert 0 < tally.cut <= 8, tally
    assert set(tally.problems) == {"The engine broke off the answer"}, tally


def kill_a_busy_engine(site, client):
    with site.traffic(client) as traffic:
        traffic.wait_for_answers(8, timeout_s=20)
        busy = until(lambda: busy_replica(client), 10, "a stream on a replica")
        site.kill(site.engines()[busy])
        until(lambda: busy not in site.ready_replicas(client), 20, "one replica less")
        until(lambda: is_whole(site, client), REPLACED_S, "its replacement")
    return traffic.tally()


def test_everything_goes_on_without_up_and_the_next_one_takes_over(site, client):
    services = {name: site.process(name) for name in ("agent", "gateway", "control")}
    engines, postmaster = site.engines(), site.postmaster()
    site.up.process.kill()
    site.up.wait()
    assert site.say(client) in ANSWERS.values()
    assert len(client.versions.list(ORG, ARCH)) == 2
    site.start()
    assert site.up.keys.empty()
    until(lambda: sum("Took over" in said for said in site.up.messages) == 3, 10, "the takeover")
    assert {name: site.process(name) for name in services} == services
    assert (site.engines(), site.postmaster()) == (engines, postmaster)


def test_inference_outlives_the_database_which_is_started_again(site, client):
    killed = site.postmaster()
    with whole_answers(site) as seen:
        site.kill(killed)
        statuses = management_statuses(site)
    assert set(seen) == {"answered"}, seen
    assert set(statuses) == {503, 200}
    assert site.postmaster() != killed
    new = other_version(site, client)
    site.deploy(new)
    assert site.say(client) == ANSWERS[new]


def test_after_a_power_cut_the_next_up_serves_again(site, client):
    served = site.say(client)
    for pid in processes_of(site.root):
        with suppress(ProcessLookupError):  # its parent's death may have been its own
            os.kill(pid, signal.SIGKILL)
    site.up.wait()
    until(lambda: not processes_of(site.root), 10, "everybody's end")
    site.start()
    assert until(lambda: site.say(client), what="an answer") == served


def other_version(site: Installation, client: Client) -> int:
    return 2 if site.say(client) == ANSWERS[1] else 1


def busy_replica(client: Client) -> str | None:
    """One with several streams, so that some are still there a moment later."""
    found = client.admin.replicas.list(ENDPOINT)
    return next((r.id for r in found if r.state == "ready" and (r.in_flight or 0) > 1), None)


def is_whole(site: Installation, client: Client) -> bool:
    """Two replicas are ready, and they are those whose engines live."""
    ready = set(site.ready_replicas(client))
    return len(ready) == 2 and ready == set(site.engines())


def updated_replicas(client: Client, deployment_id: str) -> int | None:
    deployment = client.deployments.get(deployment_id)
    assert not deployment.final, json.dumps(dict(deployment.raw))
    return deployment.updated_replicas


def management_statuses(site: Installation) -> list[int]:
    """What management answers from now until all is well again."""
    statuses: list[int] = []
    url = f"{site.url}/management/v1/orgs/{ORG}/models"
    headers = {"authorization": f"Bearer {site.management_key}"}

    def is_well() -> bool:
        statuses.append(httpx.get(url, headers=headers, timeout=30).status_code)
        return statuses[-1] == 200

    until(is_well, what="management")
    return statuses
