"""The Python client against the control plane's real app: every call, its answer read, its refusals raised."""

import asyncio
from collections.abc import Callable

import httpx
import pytest

from control_world import write_base_model
from weighbridge.accounts.model import KeyKind
from weighbridge.sdk import (
    AuthenticationError,
    BadRequestError,
    Client,
    ConflictError,
    NotFoundError,
    PermissionDeniedError,
    SyncFailedError,
    VersionName,
    wait_for_sync,
)

ARCH = "llama-3.3-70b"
ENDPOINT = "my-org-llama"
URI = "s3://my-bucket/model-weights"


class InLoop(httpx.BaseTransport):
    """Carries a request of the synchronous client, in its thread, to the app in the test's loop."""

    def __init__(self, app: httpx.AsyncClient, loop: asyncio.AbstractEventLoop) -> None:
        self._app = app
        self._loop = loop

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        asked = self._app.request(
            request.method, request.url, headers=request.headers, content=request.read()
        )
        answer = asyncio.run_coroutine_threadsafe(asked, self._loop).result(30)
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)


@pytest.fixture
async def client(world, org):
    """A client with a management key of my-org and an admin key; an endpoint is there."""
    _, management = await world.key(KeyKind.MANAGEMENT, org)
    _, admin = await world.key(KeyKind.ADMIN, None)
    await world.create_endpoint(ENDPOINT, org)
    transport = InLoop(world.client, asyncio.get_running_loop())
    with Client(
        "http://control", management, admin_key=admin, http_transport=transport
    ) as connected:
        yield connected


async def blocking(story: Callable[[], object]) -> object:
    """A synchronous story, told in a thread so that the app can answer it."""
    return await asyncio.to_thread(story)


async def test_versions_are_uploaded_named_and_deleted(client):
    def story():
        assert list(client.models.list("my-org")) == [ARCH]
        version = client.models.upload(
            "my-org", ARCH, URI, version_aliases=["production"], system_fingerprint_suffix="sfx"
        )
        assert (version.version_id, version.sync_status) == (1, "queued")
        assert version.system_fingerprint_suffix == "sfx"
        assert version.progress is not None
        by_alias = client.versions.get(VersionName("my-org", ARCH, "production"))
        assert by_alias == version
        aliases = client.versions.set_aliases(version.name, ["stable"])
        assert aliases.version_aliases == ("stable",)
        assert [item.name for item in client.versions.list("my-org", ARCH)] == [version.name]
        assert client.versions.delete(version.name)["deleted"] is True
        with pytest.raises(NotFoundError):
            client.versions.get(version.name)

    await blocking(story)


async def test_a_failed_sync_is_raised_with_the_servers_reason(world, org, client):
    from weighbridge.registry.model import SyncStatus

    version = await blocking(lambda: client.models.upload("my-org", ARCH, URI))
    await world.end_sync(org, 1, SyncStatus.ERROR)
    with pytest.raises(SyncFailedError, match="Access was denied") as caught:
        await blocking(lambda: wait_for_sync(client, version.name, timeout_s=5))
    assert caught.value.code == "no_access"


async def test_a_version_is_deployed_and_the_deployment_cancelled(world, org, client):
    version = await blocking(
        lambda: client.models.upload("my-org", ARCH, URI, version_aliases=["production"])
    )
    await world.end_sync(org, 1)

    def story():
        assert wait_for_sync(client, version.name, timeout_s=5).succeeded
        deployment = client.endpoints.deploy(
            ENDPOINT, f"orgs/my-org/models/{ARCH}/versions/production"
        )
        assert (deployment.state, deployment.version) == ("not_started", "1")
        (listed,) = client.endpoints.get(ENDPOINT).deployed_models
        assert (listed.id, listed.version_alias) == (deployment.id, "production")
        assert client.deployments.get(deployment.id).endpoint_id == ENDPOINT
        assert client.deployments.cancel(deployment.id).failed
        assert client.deployments.cancel(deployment.id).state == "cancelled"
        with pytest.raises(ConflictError):
            client.endpoints.rollback(ENDPOINT)
        (summary,) = client.endpoints.list("my-org")
        assert (summary.endpoint_id, summary.org_name) == (ENDPOINT, "my-org")

    await blocking(story)


async def test_aliases_move_deployments_are_listed_and_endpoints_scaled(world, org, client):
    for number in (1, 2):
        await blocking(lambda: client.models.upload("my-org", ARCH, URI))
        await world.end_sync(org, number)

    def story():
        moved = client.aliases.move("my-org", ARCH, "production", 1, expected=None)
        assert (moved.model, moved.previous_model) == (
            f"orgs/my-org/models/{ARCH}/versions/1",
            None,
        )
        with pytest.raises(ConflictError) as taken:
            client.aliases.move("my-org", ARCH, "production", 2, expected=None)
        assert taken.value.code == "alias_moved"
        assert "version 1" in taken.value.message
        client.aliases.move("my-org", ARCH, "production", 2, expected=1, idempotency_key="k")
        newest, first = client.aliases.history("my-org", ARCH, "production").changes
        assert (newest.cause, newest.to_version) == (
            "move",
            f"orgs/my-org/models/{ARCH}/versions/2",
        )
        page = client.aliases.history("my-org", ARCH, "production", page_size=1)
        rest = client.aliases.history("my-org", ARCH, "production", page_token=page.next_page_token)
        assert rest.changes == (first,)

        name = f"orgs/my-org/models/{ARCH}/versions/production"
        forecast = client.endpoints.forecast(ENDPOINT, name)
        assert (forecast.version_id, forecast.expected_status) == (2, "done")
        assert [step.step for step in forecast.steps] == ["start", "route"]
        made = [client.endpoints.deploy(ENDPOINT, name).id for _ in range(3)]
        assert [one.id for one in client.deployments.list(endpoint_id=ENDPOINT)] == made[::-1]
        assert not list(client.deployments.list(statuses=["done", "error"]))
        page = client.deployments.page(page_size=2)
        assert [one.id for one in page.deployments] == made[:0:-1]
        detail = client.deployments.detail(made[0])
        assert (detail.replicas, detail.base_version_id) == ((), None)

        with pytest.raises(PermissionDeniedError):
            client.endpoints.scale(ENDPOINT, 2)
        assert client.admin.endpoints.update(ENDPOINT, replicas_max=3).replicas_max == 3
        assert client.endpoints.scale(ENDPOINT, 2).applies == "with_deployment"
        assert client.admin.endpoints.update(ENDPOINT, replicas_max=0).replicas_max is None

    await blocking(story)


async def test_an_operator_makes_orgs_and_keys(client):
    admin = client.admin

    def story():
        org = admin.orgs.create("acme", s3_role_arn="arn:aws:iam::123456789012:role/reader")
        assert org.s3_external_id
        assert admin.orgs.get("acme") == org
        assert admin.orgs.update("acme", s3_role_arn=None).s3_role_arn is None
        assert {item.org_name for item in admin.orgs.list()} == {"acme", "my-org"}
        key = admin.keys.create("both", name="ci", org_name="acme", expires_in_s=3600)
        assert key.key is not None
        assert key.key.startswith(key.prefix)
        (listed,) = admin.keys.list("acme")
        assert (listed.id, listed.key, listed.revoked) == (key.id, None, None)
        assert admin.keys.revoke(key.id).revoked is not None
        with pytest.raises(ConflictError):
            admin.orgs.create("acme")

    await blocking(story)


async def test_an_operator_registers_architectures_and_shapes_endpoints(client, tmp_path):
    admin = client.admin
    source = write_base_model(tmp_path / "base")

    def story():
        arch = admin.architectures.register(
            "tiny", str(source), engine={"slots": 2}, org_names=["my-org"]
        )
        assert (arch.tensors, arch.parameters, arch.org_names) == (1, 6, ("my-org",))
        assert arch.engine["slots"] == 2
        assert admin.architectures.get("tiny") == arch
        assert {item.model_arch_id for item in admin.architectures.list()} == {ARCH, "tiny"}
        shape = admin.endpoints.create("tiny-1", org_name="my-org", model_arch_id="tiny")
        assert (shape.replicas, shape.max_unavailable, shape.max_surge) == (1, 0, 1)
        assert shape.serving is None
        with pytest.raises(ConflictError):
            admin.architectures.delete("tiny")
        scaled = admin.endpoints.update("tiny-1", replicas=3)
        assert (scaled.replicas, scaled.max_surge) == (3, 1)
        assert admin.endpoints.get("tiny-1").replicas == 3
        assert {item.endpoint_id for item in admin.endpoints.list()} == {ENDPOINT, "tiny-1"}
        admin.endpoints.delete("tiny-1")
        with pytest.raises(NotFoundError):
            admin.endpoints.get("tiny-1")
        admin.architectures.delete("tiny")

    await blocking(story)


async def test_an_operator_sees_what_runs(client):
    def story():
        assert client.admin.status().database == "ok"
        assert client.admin.replicas.list(ENDPOINT) == ()
        assert client.admin.nodes()[0]["name"] == "node-1"
        assert client.admin.store.get().damaged == ()
        assert client.admin.store.verify().due_blobs == client.admin.store.get().blobs
        assert client.admin.store.collect(dry_run=True)["dry_run"] is True
        with pytest.raises(NotFoundError):
            client.admin.replicas.logs("none")

    await blocking(story)


async def test_refusals_have_their_class_and_code(world, client):
    transport = InLoop(world.client, asyncio.get_running_loop())

    def story():
        with pytest.raises(BadRequestError) as caught:
            client.models.upload("my-org", ARCH, "https://not-s3")
        assert "s3://" in caught.value.message
        with pytest.raises(NotFoundError):
            client.models.list("another-org")
        with (
            Client("http://control", "wb_mgmt_wrong", http_transport=transport) as stranger,
            pytest.raises(AuthenticationError),
        ):
            stranger.models.list("my-org")

    await blocking(story)
