"""`weighbridge up --take-over` with other settings, on a whole installation under streams: nobody notices."""

from collections.abc import Callable
from pathlib import Path

import pytest
from installation import ENDPOINT, installed, until

from s3 import running_s3

pytestmark = pytest.mark.system


def test_settings_are_changed_under_load_without_a_failed_request(
    make_public_directory: Callable[[], Path],
) -> None:
    with running_s3() as s3, installed(make_public_directory(), s3) as site:
        site.prepare(replicas=1)
        site.deploy(1)
        before = {name: site.process(name) for name in ("agent", "gateway", "control")}
        kept = site.engines(), site.postmaster()
        first = site.up
        with site.client(retries_max=0) as client, site.traffic(client) as traffic:
            traffic.wait_for_answers(8, timeout_s=60)
            site.settings["WEIGHBRIDGE_GATEWAY_WORKERS"] = "2"
            site.spawn_up("--take-over")
            assert first.wait() == 0
            assert first.messages[-1] == "Another `up` follows this one."
            until(lambda: any("is ready" in said for said in site.up.messages), what="up")
            traffic.wait_for_answers(16, timeout_s=60)
        tally = traffic.tally()
        assert tally.clean, tally
        after = {name: site.process(name) for name in before}
        assert after["agent"] == before["agent"]
        assert after["gateway"] != before["gateway"]
        assert after["control"] != before["control"]
        assert (site.engines(), site.postmaster()) == kept
        with site.client() as client:
            assert client.admin.endpoints.list()[0].endpoint_id == ENDPOINT
