"""An endpoint with one replica and no room for a second: replaced, and killed, under load, without a failed request."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest
from installation import ANSWERS, ARCH, LONG_QUESTION, ORG, Installation, until

from weighbridge.sdk import ClientError

pytestmark = pytest.mark.system

ENDPOINT = "acme-alone"
UNARY_CALLERS = 4
STREAM_GROUPS = 2
"""Of eight streams each."""


@pytest.fixture(scope="module")
def site(shared_site: Installation) -> Iterator[Installation]:
    with shared_site.client() as client:
        client.admin.endpoints.create(
            ENDPOINT,
            org_name=ORG,
            model_arch_id=ARCH,
            replicas=1,
            max_surge=0,
            max_unavailable=1,
            allow_downtime=True,
        )
        before = set(shared_site.engines())
        shared_site.deploy(1, ENDPOINT)
        yield shared_site
        client.admin.endpoints.delete(ENDPOINT)
        until(lambda: set(shared_site.engines()) <= before, what="the end of its replicas")


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

    threads = [threading.Thread(target=call) for _ in range(UNARY_CALLERS)]
    for thread in threads:
        thread.start()
    yield seen
    stop.set()
    for thread in threads:
        thread.join(60)


def metric(site: Installation, name: str) -> float:
    """Over all gateway workers."""
    text = httpx.get(f"http://127.0.0.1:{site.probe_port}/metrics", timeout=5).text
    wanted = (f"weighbridge_gateway_{name}{{", f'endpoint="{ENDPOINT}"')
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in text.splitlines()
        if line.startswith(wanted[0]) and wanted[1] in line
    )


def test_a_rolling_deploy_of_the_only_replica_fails_no_request(site):
    with site.client(retries_max=0) as client:
        with ExitStack() as stack, whole_answers(site) as answered:
            streams = [
                stack.enter_context(site.traffic(client, ENDPOINT)) for _ in range(STREAM_GROUPS)
            ]
            for group in streams:
                group.wait_for_answers(8, timeout_s=30)
            deployment = site.deploy(2, ENDPOINT)
            for group in streams:
                group.wait_for_answers(8, timeout_s=30)
        assert deployment.state == "done"
        for group in streams:
            tally = group.tally()
            assert tally.clean, tally
            assert set(tally.answered) == {"1", "2"}
        assert set(answered) == {"answered"}, answered
        assert site.say(client, ENDPOINT) == ANSWERS[2]
    held = until(lambda: metric(site, "held_requests_total"), what="held requests")
    assert held >= UNARY_CALLERS
    assert metric(site, "held_streams_total") > 0
    assert metric(site, "held_refused_total") == 0
    assert metric(site, "holding") == 0


def test_the_death_of_the_only_replica_fails_no_request_that_had_no_answer_yet(site):
    """Streams that had begun break, visibly; nobody else notices."""
    with site.client(retries_max=0) as client, whole_answers(site) as answered:
        until(lambda: answered["answered"] > 2 * UNARY_CALLERS, what="answers")
        (alone,) = site.ready_replicas(client, ENDPOINT)
        site.kill(site.engines()[alone])
        until(lambda: site.ready_replicas(client, ENDPOINT) not in ([], [alone]), what="another")
        before = answered["answered"]
        until(lambda: answered["answered"] > before + UNARY_CALLERS, what="answers again")
    assert set(answered) == {"answered"}, answered
