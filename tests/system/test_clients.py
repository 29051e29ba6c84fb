"""Unmodified clients of the hosted API against a whole installation: both SDKs, and plain HTTP."""

from collections.abc import Iterator

import httpx
import openai
import pytest
from cerebras.cloud import sdk as cerebras
from installation import (
    ANSWERS,
    ARCH,
    BUCKET,
    ENDPOINT,
    LIMIT_S,
    LONG_QUESTION,
    ORG,
    QUESTION,
    Installation,
    until,
)

from weighbridge.sdk import wait_for_deployment

pytestmark = pytest.mark.system

MESSAGES = [{"role": "user", "content": QUESTION}]
SDKS = {"openai": openai, "cerebras": cerebras}


@pytest.fixture
def site(shared_site: Installation) -> Installation:
    return shared_site


@pytest.fixture(params=SDKS)
def sdk(request: pytest.FixtureRequest):
    return SDKS[request.param]


def client_of(sdk, site: Installation, key: str | None = None, retries: int = 0):
    """As their own documentation says: the one wants /v1 in its base URL, the other does not."""
    options = {"api_key": key or site.inference_key, "max_retries": retries}
    if sdk is openai:
        return openai.OpenAI(base_url=f"{site.url}/v1", **options)
    return cerebras.Cerebras(base_url=site.url, **options)


def test_chat(site, sdk):
    with client_of(sdk, site) as client:
        answer = client.chat.completions.create(model=ENDPOINT, messages=MESSAGES, temperature=0)
    assert answer.choices[0].message.content == ANSWERS[1]
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == ENDPOINT
    assert answer.system_fingerprint.endswith("-v1")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream(site, sdk):
    messages = [{"role": "user", "content": LONG_QUESTION}]
    with client_of(sdk, site) as client:
        whole = client.chat.completions.create(model=ENDPOINT, messages=messages, temperature=0)
        stream = client.chat.completions.create(
            model=ENDPOINT, messages=messages, temperature=0, stream=True
        )
        chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content
    assert len(chunks) > 50
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert len({chunk.id for chunk in chunks}) == 1
    assert {chunk.system_fingerprint for chunk in chunks} == {whole.system_fingerprint}


def test_a_completion(site, sdk):
    with client_of(sdk, site) as client:
        answer = client.completions.create(
            model=ENDPOINT, prompt="one two", max_tokens=4, temperature=0
        )
    assert answer.object == "text_completion"
    assert answer.usage.completion_tokens == 4


def test_the_models_are_the_orgs_endpoints_that_serve(site, sdk):
    with client_of(sdk, site) as client:
        assert [model.id for model in client.models.list().data] == [ENDPOINT]
        assert client.models.retrieve(ENDPOINT).id == ENDPOINT


def test_errors_arrive_as_the_sdks_own_classes(site, sdk):
    with client_of(sdk, site) as client:
        chat = client.chat.completions.create
        with pytest.raises(sdk.NotFoundError) as unknown:
            chat(model="nobody", messages=MESSAGES)
        with pytest.raises(sdk.BadRequestError) as unsupported:
            chat(model=ENDPOINT, messages=MESSAGES, extra_body={"top_k": 3})
    assert unknown.value.body["code"] == "model_not_found"
    assert unsupported.value.body["code"] == "wrong_api_format"
    assert "body.top_k" in unsupported.value.body["message"]
    with (
        client_of(sdk, site, key="wb_inf_nobody") as stranger,
        pytest.raises(sdk.AuthenticationError) as refused,
    ):
        stranger.chat.completions.create(model=ENDPOINT, messages=MESSAGES)
    assert refused.value.body["code"] == "wrong_api_key"


@pytest.fixture
def fresh_endpoint(site: Installation, sdk) -> Iterator[str]:
    """One that nothing was deployed to; its id is never given out again."""
    name = f"acme-fresh-{sdk.__name__.rpartition('.')[2]}"
    with site.client() as client:
        client.admin.endpoints.create(name, org_name=ORG, model_arch_id=ARCH)
        before = set(site.engines())
        yield name
        for deployment in client.endpoints.get(name).deployed_models:
            wait_for_deployment(client, name, deployment.id, timeout_s=LIMIT_S)
        client.admin.endpoints.delete(name)
        until(lambda: set(site.engines()) <= before, what="the end of its replica")


def test_while_the_first_rollout_runs_it_is_503_and_the_sdks_retries_win(site, sdk, fresh_endpoint):
    with site.client() as operator, client_of(sdk, site) as hasty:
        with pytest.raises(sdk.NotFoundError):
            hasty.chat.completions.create(model=fresh_endpoint, messages=MESSAGES)
        site.ask_for(operator, 2, fresh_endpoint)
        with pytest.raises(sdk.InternalServerError) as early:
            until(lambda: is_known(sdk, hasty, fresh_endpoint), 5, "any word of the endpoint")
        assert early.value.status_code == 503
        patient = hasty.with_options(max_retries=8)
        answer = patient.chat.completions.create(
            model=fresh_endpoint, messages=MESSAGES, temperature=0
        )
    assert answer.choices[0].message.content == ANSWERS[2]


def is_known(sdk, client, endpoint: str) -> bool:
    """The routes follow the deployment's row within a moment; until then it is a 404."""
    try:
        client.chat.completions.create(model=endpoint, messages=MESSAGES)
    except sdk.NotFoundError:
        return False
    return True


@pytest.fixture
def http(site: Installation) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {site.management_key}"}
    with httpx.Client(base_url=f"{site.url}/management/v1", headers=headers) as client:
        yield client


@pytest.mark.parametrize("colon", [":", "%3A", "%3a"])
def test_the_nine_management_calls_as_the_reference_writes_them(site, http, colon):
    models = f"/orgs/{ORG}/models"
    versions = f"{models}/{ARCH}/versions"
    assert ARCH in ok(http.get(models))["model_architectures"]

    body = {
        "model_arch_id": ARCH,
        "model": {
            "weight_uri": f"s3://{BUCKET}/llama-v1",
            "version_aliases": ["my-cool-version"],
            "system_fingerprint_suffix": "my-custom-suffix",
        },
    }
    uploaded = ok(http.post(f"{models}{colon}upload", json=body))
    number = int(uploaded["name"].rpartition("/")[2])
    assert uploaded["name"] == f"orgs/{ORG}/models/{ARCH}/versions/{number}"
    assert uploaded["done"] is False
    assert uploaded["response"]["sync_status"] == "queued"

    until(lambda: ok(http.get(f"{versions}/{number}"))["done"], 30, "the sync")
    by_alias = ok(http.get(f"{versions}/my-cool-version/"))
    assert by_alias == ok(http.get(f"{versions}/{number}"))
    assert by_alias["response"]["sync_status"] == "done"
    assert by_alias["response"]["customer_s3_uri"] == body["model"]["weight_uri"]
    assert by_alias["response"]["system_fingerprint_suffix"] == "my-custom-suffix"
    listed = ok(http.get(f"{versions}/"))["model_versions"]
    assert listed[-1]["name"] == uploaded["name"]

    aliases = ok(http.patch(f"{versions}/{number}", json={"version_aliases": ["other-name"]}))
    assert (aliases["name"], aliases["version_aliases"]) == (uploaded["name"], ["other-name"])
    taken = http.patch(f"{versions}/{number}", json={"version_aliases": ["production"]})
    assert (taken.status_code, taken.headers["x-should-retry"]) == (409, "false")

    deleted = ok(http.delete(f"{versions}/{number}"))
    assert (deleted["name"], deleted["deleted"]) == (uploaded["name"], True)
    assert deleted["message"]
    assert http.get(f"{versions}/{number}").status_code == 404
    in_use = http.delete(f"{versions}/production")
    assert in_use.status_code == 409
    assert ENDPOINT in in_use.json()["message"]


@pytest.mark.parametrize("colon", [":", "%3A"])
def test_a_deployment_as_the_reference_writes_it(site, http, colon):
    endpoints = ok(http.get(f"/orgs/{ORG}/endpoints"))["endpoints"]
    (endpoint,) = (one for one in endpoints if one["endpoint_id"] == ENDPOINT)
    assert (endpoint["model_arch_id"], endpoint["org_name"]) == (ARCH, ORG)

    model = {"model": f"orgs/{ORG}/models/{ARCH}/versions/production"}
    asked = ok(http.post(f"/endpoints/{ENDPOINT}{colon}deployModel", json=model))
    operation = asked["response"]
    assert asked["name"] == operation["deployment_id"]
    assert (asked["done"], operation["rollout_status"]) == (False, "not_started")
    assert operation["version_id"] == 1

    def deployed() -> dict:
        found = ok(http.get(f"/endpoints/{ENDPOINT}/"))["deployed_models"]
        return next(one for one in found if one["id"] == asked["name"])

    until(lambda: deployed()["state"] == "done", what="the rollout")
    assert deployed()["version_alias"] == "production"
    assert deployed()["model"] == f"orgs/{ORG}/models/{ARCH}/versions/1"
    status = ok(http.get(f"/endpoints/{ENDPOINT}"))
    assert status["deployed_models"][0]["id"] == asked["name"]
    assert (status["name"], status["managing_org_name"]) == (ENDPOINT, ORG)


def test_keys_of_the_other_kind_are_refused_on_both_surfaces(site):
    models = f"{site.url}/management/v1/orgs/{ORG}/models"
    wrong = httpx.get(models, headers={"authorization": f"Bearer {site.inference_key}"})
    assert wrong.status_code == 401
    none = httpx.get(models)
    assert (none.status_code, none.json()) == (403, {"detail": "Not authenticated"})
    with (
        client_of(openai, site, key=site.management_key) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.chat.completions.create(model=ENDPOINT, messages=MESSAGES)


def ok(answer: httpx.Response) -> dict:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    return answer.json()
