"""A version whose replicas fail is rolled back by itself; callers of the old one notice nothing."""

import re
import sys
from collections.abc import Iterator

import pytest
from installation import ANSWERS, BUCKET, MODELS, ORG, Installation, until

from weighbridge.sdk import (
    Client,
    Deployment,
    RolloutFailedError,
    wait_for_deployment,
    wait_for_sync,
)

pytestmark = pytest.mark.system

FRAIL, ENDPOINT = "frail", "acme-frail"
SERVE = """
if [ -e "$1/model-00001-of-00002.safetensors" ]; then
  echo "out of memory: cannot place the tensors" >&2
  exit 3
fi
exec "$0" -m weighbridge.engines.llamacpp_server --model "$1" --host "$2" --port "$3" \\
  --served-name "$4" --digest "$(basename "$1")" --cache-dir "$5"
"""
"""The real engine, behind a command that ends at once for the second version's file layout."""

REASON = (
    r"2 replicas of version 2 failed; the last one: (could not start: )?"
    r"exited with code 3: out of memory: cannot place the tensors$"
)


@pytest.fixture
def site(shared_site: Installation) -> Iterator[Installation]:
    """With an endpoint of its own, whose engine is the operator's command."""
    command = ["sh", "-c", SERVE, sys.executable, "{model}", "{host}", "{port}", "{served_name}"]
    settings = {"engine": "command", "command": [*command, str(shared_site.root / "frail-cache")]}
    with shared_site.client() as client:
        admin = client.admin
        admin.architectures.register(FRAIL, str(MODELS / "llama-v1"), engine=settings)
        admin.endpoints.create(ENDPOINT, org_name=ORG, model_arch_id=FRAIL, replicas=2)
        before = set(shared_site.engines())
        yield shared_site
        admin.endpoints.delete(ENDPOINT)
        until(lambda: set(shared_site.engines()) <= before, what="the end of its replicas")


def test_it_goes_back_with_the_reason_while_the_old_version_serves(site):
    with site.client() as client:
        first, second = upload(client, "llama-v1", "v1"), upload(client, "llama-v2", "v2")
        deploy(client, first)
        served = set(site.ready_replicas(client, ENDPOINT))
        with site.traffic(client, ENDPOINT) as traffic:
            traffic.wait_for_answers(8, timeout_s=20)
            with pytest.raises(RolloutFailedError, match=REASON):
                deploy(client, second)
            traffic.wait_for_answers(8, timeout_s=20)
        tally = traffic.tally()
        assert tally.clean, tally
        assert set(tally.answered) == {"1"}
        serving, failed = client.endpoints.get(ENDPOINT).deployed_models
        assert (serving.state, serving.version) == ("done", "1")
        assert failed.state == "rolled_back"
        assert re.match(REASON, failed.error_message)
        assert set(site.ready_replicas(client, ENDPOINT)) == served
        assert site.say(client, ENDPOINT) == ANSWERS[1]
        ended = [one for one in client.admin.replicas.list(ENDPOINT) if one.state == "failed"]
        assert "out of memory" in client.admin.replicas.logs(ended[0].id)


def upload(client: Client, prefix: str, suffix: str) -> str:
    uri = f"s3://{BUCKET}/{prefix}"
    version = client.models.upload(ORG, FRAIL, uri, system_fingerprint_suffix=suffix)
    return wait_for_sync(client, version.name, timeout_s=30).name


def deploy(client: Client, name: str) -> Deployment:
    deployment = client.endpoints.deploy(ENDPOINT, name)
    return wait_for_deployment(client, ENDPOINT, deployment.id, timeout_s=60)
