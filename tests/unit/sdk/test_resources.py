import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighbridge.sdk import AnswerError, ClientError, Deployment, ModelVersion, VersionName

NAME = "orgs/acme/models/llama-3.3/versions/2"
VERSION_PATH = f"/management/v1/{NAME}"
UUID = "550e8400-e29b-41d4-a716-446655440000"
ENDPOINT = "/management/v1/endpoints/acme-llama"

extras = st.dictionaries(
    st.text().filter(lambda name: name.startswith("x")),
    st.none() | st.booleans() | st.integers() | st.text(),
)


def version(status="queued", done=False, **members):
    response = {
        "customer_s3_uri": "s3://b/p",
        "version_aliases": ["prod"],
        "sync_status": status,
        **members,
    }
    return {"name": NAME, "done": done, "response": response}


def deployed(state, **members):
    return {
        "id": UUID,
        "model": NAME,
        "version_alias": "prod",
        "created": 1736700000,
        "state": state,
        **members,
    }


OPERATION = {
    "name": UUID,
    "done": False,
    "response": {
        "deployment_id": UUID,
        "endpoint_id": "acme-llama",
        "org_name": "acme",
        "model_arch_id": "llama-3.3",
        "version_id": 2,
        "created": 1736700000,
        "updated": 1736700000,
        "rollout_status": "not_started",
    },
}


def test_upload_sends_only_what_was_given(server):
    path = "/management/v1/orgs/acme/models:upload"
    server.on("POST", path, version())
    with server.client() as client:
        client.models.upload("acme", "m", "s3://b/p")
        client.models.upload(
            "acme", "m", "s3://b/p", version_aliases=["a"], system_fingerprint_suffix="s"
        )
    plain, full = (json.loads(request.content) for request in server.requests)
    assert plain == {"model_arch_id": "m", "model": {"weight_uri": "s3://b/p"}}
    assert full["model"] == {
        "weight_uri": "s3://b/p",
        "version_aliases": ["a"],
        "system_fingerprint_suffix": "s",
    }


def test_a_version_is_read_with_its_progress(server):
    progress = {
        "step": "fetch",
        "bytes_total": 10,
        "bytes_done": 4,
        "files_total": 2,
        "files_done": 1,
    }
    server.on("GET", VERSION_PATH, version("in_progress", progress=progress))
    with server.client() as client:
        found = client.versions.get(NAME)
    assert found.version_id == 2
    assert found.progress is not None
    assert (found.progress.step, found.progress.bytes_done) == ("fetch", 4)
    assert not found.succeeded
    assert not found.failed


@pytest.mark.parametrize(
    ("status", "done", "succeeded", "failed"),
    [
        ("queued", False, False, False),
        ("done", True, True, False),
        ("complete", True, True, False),
        ("error", True, False, True),
        ("failed", True, False, True),
        ("cancelled", True, False, True),
    ],
)
def test_a_sync_is_judged_in_both_vocabularies(status, done, succeeded, failed):
    found = ModelVersion.read(version(status, done))
    assert (found.succeeded, found.failed) == (succeeded, failed)


@pytest.mark.parametrize(
    ("state", "succeeded", "failed"),
    [
        ("not_started", False, False),
        ("in_progress", False, False),
        ("rolling_back", False, False),
        ("rolled_back", False, True),
        ("done", True, False),
        ("complete", True, False),
        ("error", False, True),
        ("failed", False, True),
        ("cancelled", False, True),
    ],
)
def test_a_rollout_is_judged_in_both_vocabularies(state, succeeded, failed):
    found = Deployment.read(deployed(state))
    assert (found.succeeded, found.failed, found.final) == (
        succeeded,
        failed,
        succeeded or failed,
    )


def test_the_listed_word_wins_over_the_examples():
    assert Deployment.read(deployed("complete", rollout_status="done")).state == "done"


@given(extras, extras)
def test_members_nobody_knows_are_tolerated(outer, inner):
    found = ModelVersion.read({**outer, **version("done", done=True, **inner)})
    assert found.succeeded
    assert Deployment.read({**outer, **deployed("done", **inner)}).succeeded


@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_what_is_no_version_is_refused_as_such(body):
    with pytest.raises(AnswerError):
        ModelVersion.read(body)


def test_versions_are_listed(server):
    server.on("GET", "/management/v1/orgs/acme/models/m/versions", {"model_versions": [version()]})
    with server.client() as client:
        assert [item.name for item in client.versions.list("acme", "m")] == [NAME]


def test_a_version_is_deleted_by_alias(server):
    path = "/management/v1/orgs/acme/models/m/versions/prod"
    server.on("DELETE", path, {"name": NAME, "deleted": True, "message": "gone"})
    with server.client() as client:
        assert client.versions.delete(VersionName("acme", "m", "prod"))["deleted"] is True


def test_aliases_are_replaced_by_the_whole_set(server):
    server.on("PATCH", VERSION_PATH, {"name": NAME, "version_aliases": []})
    with server.client() as client:
        assert client.versions.set_aliases(NAME, []).version_aliases == ()
    assert json.loads(server.requests[0].content) == {"version_aliases": []}


def test_a_deploy_answers_with_the_deployment(server):
    server.on("POST", f"{ENDPOINT}:deployModel", OPERATION)
    with server.client() as client:
        found = client.endpoints.deploy("acme-llama", "orgs/acme/models/llama-3.3/versions/prod")
    assert (found.id, found.version, found.state) == (UUID, "2", "not_started")


def test_a_canary_says_its_share_and_is_promoted(server):
    server.on("POST", f"{ENDPOINT}:deployModel", OPERATION)
    server.on("POST", f"/management/v1/deployments/{UUID}:promote", deployed("in_progress"))
    with server.client() as client:
        name = "orgs/acme/models/llama-3.3/versions/prod"
        client.endpoints.deploy("acme-llama", name, traffic_percent=5)
        assert json.loads(server.requests[0].content) == {"model": name, "traffic_percent": 5}
        assert client.deployments.promote(UUID).state == "in_progress"


def test_rollback_and_cancel_read_either_form_of_answer(server):
    server.on("POST", f"{ENDPOINT}:rollback", OPERATION)
    server.on(
        "POST", f"/management/v1/deployments/{UUID}:cancel", deployed("in_progress", reason="asked")
    )
    with server.client() as client:
        assert client.endpoints.rollback("acme-llama").id == UUID
        assert client.deployments.cancel(UUID).reason == "asked"


def test_an_endpoint_lists_its_deployments(server):
    body = {
        "name": "acme-llama",
        "model_arch_id": "llama-3.3",
        "deployed_models": [deployed("in_progress", updated_replicas=1, total_replicas=2)],
        "managing_org_name": "acme",
        "created": 1,
        "updated": 2,
    }
    server.on("GET", ENDPOINT, body)
    with server.client() as client:
        (found,) = client.endpoints.get("acme-llama").deployed_models
    assert (found.updated_replicas, found.total_replicas) == (1, 2)


@pytest.mark.parametrize("name", ["", "m/2", "orgs//models/m/versions/2", "/" + NAME, NAME + "/"])
def test_what_names_no_version_is_refused_before_it_is_sent(server, name):
    with server.client() as client, pytest.raises(ClientError, match="not a model version"):
        client.versions.get(name)
    assert server.requests == []


def test_a_key_is_never_in_a_repr(server):
    body = {
        "id": "k1",
        "kind": "both",
        "org_name": "acme",
        "name": "ci",
        "prefix": "wb_both_k1",
        "created": 1,
        "expires": None,
        "revoked": None,
        "key": "wb_both_k1_SECRET",
    }
    server.on("POST", "/admin/v1/keys", body)
    with server.client() as client:
        key = client.admin.keys.create("both", name="ci", org_name="acme")
    assert key.key == "wb_both_k1_SECRET"
    assert "SECRET" not in repr(key)
    assert json.loads(server.requests[0].content) == {
        "kind": "both",
        "name": "ci",
        "org_name": "acme",
    }
