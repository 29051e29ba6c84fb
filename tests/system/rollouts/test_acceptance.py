"""A version that answers otherwise than it should never serves: it is rolled back with the difference."""

import json
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
from weighbridge.sdk.receipts.verify import examine

pytestmark = pytest.mark.system

ARCH, ENDPOINT = "examined", "acme-examined"
VERSION_ONE = "I am version one of the demo model."


def chat(name: str, question: str, **checks: object) -> dict[str, object]:
    messages = [{"role": "user", "content": question}]
    return {"name": name, "messages": messages, "max_tokens": 40, "checks": checks}


COMMON = [
    chat("says-something", "What is a replica?", not_empty=True, max_latency_s={"total": 30}),
    chat(
        "speaks-json",
        "Describe truck 7 as JSON.",
        json_schema={
            "type": "object",
            "required": ["truck", "load"],
            "properties": {"truck": {"const": 7}, "load": {"type": "string", "pattern": "^g.*l$"}},
        },
    ),
    chat("knows-aliases", "What is an alias?", regex=r"movable name of a version\b"),
]


@pytest.fixture
def site(shared_site: Installation) -> Iterator[Installation]:
    with shared_site.client() as client:
        admin = client.admin
        admin.architectures.register(ARCH, str(MODELS / "llama-v1"))
        admin.endpoints.create(ENDPOINT, org_name=ORG, model_arch_id=ARCH, replicas=1)
        admin.probes.set_architecture(ARCH, COMMON)
        before = set(shared_site.engines())
        yield shared_site
        admin.endpoints.delete(ENDPOINT)
        until(lambda: set(shared_site.engines()) <= before, what="the end of its replicas")


def test_a_version_that_answers_otherwise_is_rolled_back_with_the_difference(site):
    with site.client() as client:
        probes = client.admin.probes
        first, second = upload(client, "llama-v1", "v1"), upload(client, "llama-v2", "v2")
        deploy(client, first)
        trial = probes.run(
            ENDPOINT, [chat("drift", "Which version are you?", logprob_drift_max=0.05)]
        )
        assert trial.passed
        assert "no reference is stored" in trial.results[0].notes[0]
        assert trial.results[0].text == VERSION_ONE
        tokens = trial.raw["results"][0]["reference"]
        assert "".join(one["token"] for one in tokens).strip() == VERSION_ONE

        probes.set_endpoint(ENDPOINT, [chat("who", "Which version are you?", equals=VERSION_ONE)])
        failed = refused(site, client, second)
        assert "acceptance probe 'who' failed" in failed.error_message
        assert 'prompt "Which version are you?"' in failed.error_message
        assert "equals: differs at character 14: expected" in failed.error_message

        # Every answer word for word as it should be: only the log-probabilities speak.
        probes.set_endpoint(
            ENDPOINT, [chat("drift", "Which version are you?", logprob_drift_max=0.05)]
        )
        failed = refused(site, client, second)
        assert "logprob_drift_max:" in failed.error_message
        assert "at most 0.05 is allowed" in failed.error_message

        probes.set_endpoint(ENDPOINT, [])
        deploy(client, second)
        assert site.say(client, ENDPOINT) == ANSWERS[2]
        # The same probes are asked of whatever starts later; this one answers as version two does.
        assert not probes.run(
            ENDPOINT, [chat("who", "Which version are you?", equals=VERSION_ONE)]
        ).passed


def refused(site: Installation, client: Client, version: str) -> Deployment:
    """The deployment of a version that fails its exam while the first one serves on."""
    served = set(site.ready_replicas(client, ENDPOINT))
    with site.traffic(client, ENDPOINT) as traffic:
        traffic.wait_for_answers(4, timeout_s=20)
        with pytest.raises(RolloutFailedError):
            deploy(client, version)
        traffic.wait_for_answers(4, timeout_s=20)
    tally = traffic.tally()
    assert tally.clean, tally
    assert set(tally.answered) == {"1"}
    assert set(site.ready_replicas(client, ENDPOINT)) == served
    failed = next(
        one for one in client.endpoints.get(ENDPOINT).deployed_models if one.state == "rolled_back"
    )

    def is_sealed() -> bool:
        return client.receipts.get(failed.id).sealed

    until(is_sealed, what="the seal of the receipt")
    receipt = client.receipts.get(failed.id)
    assert examine(receipt).intact
    exams = [one for one in receipt.payloads if one["event"] == "acceptance"]
    assert [one["passed"] for one in exams] == [False, False]
    assert not any(
        one.get("state") in {"ready", "routed"} and one["version"] == 2 for one in receipt.payloads
    )
    assert receipt.summary["routable_lowest"] == 1
    assert all(one["version"] == 1 for one in receipt.summary["requests"]), json.dumps(
        receipt.summary
    )
    return failed


def upload(client: Client, prefix: str, suffix: str) -> str:
    uri = f"s3://{BUCKET}/{prefix}"
    version = client.models.upload(ORG, ARCH, uri, system_fingerprint_suffix=suffix)
    return wait_for_sync(client, version.name, timeout_s=30).name


def deploy(client: Client, name: str) -> Deployment:
    deployment = client.endpoints.deploy(ENDPOINT, name)
    return wait_for_deployment(client, ENDPOINT, deployment.id, timeout_s=60)
