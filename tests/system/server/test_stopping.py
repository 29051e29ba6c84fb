"""Stopping leaves nothing behind, whatever is going on; starting again goes on from there."""

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from installation import ANSWERS, ARCH, BUCKET, ENDPOINT, ORG, Installation, until

from s3 import running_s3
from weighbridge.sdk import wait_for_deployment

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def site(make_public_directory: Callable[[], Path]) -> Iterator[Installation]:
    """Not running: each test starts it, and stops it in its own way."""
    with running_s3() as s3:
        installation = Installation(make_public_directory(), s3)
        try:
            yield installation
        finally:
            installation.kill_all()


def test_down_while_replicas_start_leaves_nothing_behind(site):
    site.start()
    site.prepare()
    with site.client() as client:
        site.ask_for(client, 1)
    until(site.engines, what="the first engine")
    site.stop()
    assert site.up.wait() == 0
    assert site.up.messages[-2:] == [
        "Stopping; streams may finish first. Ctrl-C again cuts them.",
        "Everything is stopped.",
    ]


def test_the_next_start_goes_on_in_the_words_of_the_published_example(site):
    site.settings["WEIGHBRIDGE_STATE_VOCABULARY"] = "example"
    site.start()
    assert site.up.keys.empty(), "the admin key is shown once"
    with site.client() as client:
        (deployment,) = client.endpoints.get(ENDPOINT).deployed_models
        wait_for_deployment(client, ENDPOINT, deployment.id, timeout_s=60)
        assert site.say(client) == ANSWERS[1]
        lost = client.models.upload(ORG, ARCH, f"s3://{BUCKET}/nothing-here")
        until(lambda: client.versions.get(lost.name).done, what="the end of the sync")
    headers = {"authorization": f"Bearer {site.management_key}"}
    base = f"{site.url}/management/v1"
    (deployed,) = httpx.get(f"{base}/endpoints/{ENDPOINT}", headers=headers).json()[
        "deployed_models"
    ]
    assert (deployed["state"], deployed["rollout_status"]) == ("complete", "done")
    failed = httpx.get(f"{base}/{lost.name}", headers=headers).json()["response"]
    assert failed["sync_status"] == "failed"
    assert "nothing-here" in failed["error_message"]


def test_ctrl_c_twice_cuts_streams_and_leaves_nothing_behind(site):
    process = site.up.process
    with site.client(retries_max=0) as client, site.traffic(client) as traffic:
        traffic.wait_for_answers(8, timeout_s=20)
        process.send_signal(signal.SIGINT)
        until(lambda: any("Stopping" in said for said in site.up.messages), 10, "the stop")
        began_s = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert site.up.wait(20) == 0
        assert time.monotonic() - began_s < 10
    site.assert_nothing_left()
    site.stop()
