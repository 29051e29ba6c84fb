"""The demo's story, step by step: two versions of one model, from a bucket to callers and back."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from weighbridge.cli.demo.bucket import BUCKET, Bucket
from weighbridge.cli.demo.report import Result, Telling
from weighbridge.cli.demo.server import Server
from weighbridge.cli.demo.traffic import CLIENTS, NOTHING, Tally, Traffic
from weighbridge.cli.watch import rollout_line, sync_line
from weighbridge.sdk import Client, Deployment, ModelVersion, wait_for_deployment, wait_for_sync

ORG = "acme"
ARCH = "llama-tiny"
ENDPOINT = "acme-chat"
REPLICAS = 2
QUESTION = "Which version are you?"
LONG_QUESTION = "Count to one hundred."
SUFFIXES: Mapping[str, str] = {"1": "v1", "2": "v2"}
STEP_TIMEOUT_S = 90.0


@dataclass(frozen=True, slots=True)
class Models:
    """Directories of the first version and of its successor, with equal shapes."""

    first: Path
    second: Path


def tell(server: Server, bucket: Bucket, models: Models, telling: Telling) -> Result:
    """Play the story on a fresh server. Raises ClientError where a step is refused or fails."""
    with server.client() as operator:
        client = _set_up(server, operator, bucket, models, telling)
    with client:
        first = _upload(client, models.first, "production", telling)
        with telling.step(f"Deploy version {first.version_id} to {ENDPOINT}, {REPLICAS} replicas"):
            _deploy(client, "production", telling)
        with telling.step("Chat with it"):
            before = _chat(client, telling)
        second = _upload(client, models.second, "candidate", telling)
        with telling.step(f"Roll out version {second.version_id} while {CLIENTS} clients stream"):
            tally = _deploy_under_load(client, "candidate", NOTHING, telling)
            after = _chat(client, telling)
        with telling.step(f"Go back to version {first.version_id}, under the same load"):
            tally = _deploy_under_load(client, str(first.version_id), tally, telling)
            again = _chat(client, telling)
    return telling.result((before, after, again), tally)


def _set_up(
    server: Server, operator: Client, bucket: Bucket, models: Models, telling: Telling
) -> Client:
    admin = operator.admin
    with telling.step("Set up an org, its keys, a model architecture and an endpoint"):
        org = admin.orgs.create(ORG)
        telling.detail(f"org {ORG}; the role its bucket grants must ask for {org.s3_external_id}")
        admin.orgs.update(ORG, s3_role_arn=bucket.grant(org.s3_external_id))
        management = admin.keys.create("management", name="demo", org_name=ORG)
        inference = admin.keys.create("inference", name="demo", org_name=ORG)
        arch = admin.architectures.register(
            ARCH, str(models.first), engine={"slots": 4, "threads": 1}
        )
        telling.detail(
            f"architecture {ARCH}: {arch.tensors} tensors, {arch.parameters:,} parameters"
        )
        shape = admin.endpoints.create(
            ENDPOINT,
            org_name=ORG,
            model_arch_id=ARCH,
            replicas=REPLICAS,
            max_unavailable=0,
            max_surge=1,
        )
        telling.detail(
            f"endpoint {ENDPOINT}: {shape.replicas} replicas; in a rollout at most {shape.max_surge} more, "
            f"and never fewer than {shape.replicas - shape.max_unavailable} that serve"
        )
    keys = {"api_key": management.key or "", "inference_key": inference.key or ""}
    server.write_profile(ORG, **keys)
    return server.client(**keys)


def _upload(client: Client, model: Path, alias: str, telling: Telling) -> ModelVersion:
    uri = f"s3://{BUCKET}/{model.name}"
    with telling.step(f"Upload {uri} as `{alias}`"):
        number = str(len(client.versions.list(ORG, ARCH)) + 1)
        version = client.models.upload(
            ORG,
            ARCH,
            uri,
            version_aliases=[alias],
            system_fingerprint_suffix=SUFFIXES[number],
        )
        lines = _Lines(telling)
        return wait_for_sync(
            client,
            version.name,
            on_progress=lambda answer: lines.say(sync_line(answer)),
            timeout_s=STEP_TIMEOUT_S,
        )


def _deploy(client: Client, reference: str, telling: Telling) -> Deployment:
    name = f"orgs/{ORG}/models/{ARCH}/versions/{reference}"
    deployment = client.endpoints.deploy(ENDPOINT, name)
    lines = _Lines(telling)
    return wait_for_deployment(
        client,
        ENDPOINT,
        deployment.id,
        on_progress=lambda answer: lines.say(rollout_line(answer)),
        timeout_s=STEP_TIMEOUT_S,
    )


def _deploy_under_load(client: Client, reference: str, before: Tally, telling: Telling) -> Tally:
    with Traffic(client, ENDPOINT, LONG_QUESTION, SUFFIXES) as traffic:
        traffic.wait_for_answers(CLIENTS, timeout_s=STEP_TIMEOUT_S)
        _deploy(client, reference, telling)
        traffic.wait_for_answers(CLIENTS, timeout_s=STEP_TIMEOUT_S)
    tally = traffic.tally()
    counts = ", ".join(f"version {name}: {count}" for name, count in tally.answered.items())
    telling.detail(f"answers by {counts or 'nobody'}; failed: {tally.failed}, cut: {tally.cut}")
    return before + tally


def _chat(client: Client, telling: Telling) -> str:
    answer = client.chat.create(ENDPOINT, [{"role": "user", "content": QUESTION}], temperature=0)
    telling.detail(f"“{QUESTION}” — “{answer.text}”  [{answer.system_fingerprint}]")
    return answer.text


class _Lines:
    """Tells a line once, not at every poll."""

    def __init__(self, telling: Telling) -> None:
        self._telling = telling
        self._last = ""

    def say(self, line: str) -> None:
        if line != self._last:
            self._telling.detail(line)
            self._last = line
