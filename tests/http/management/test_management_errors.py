"""Everything that is refused: with which status, in which shape, and that nothing came of it."""

import pytest
from refusals import ENDPOINT, FLAT, MODELS, UPLOAD, VERSIONS, check, deploy, upload, upload_body

from control_world import ARCH, Caller, World
from weighbridge.accounts.model import KeyKind, Org
from weighbridge.registry.model import SyncStatus
from weighbridge.storage.database import Database


@pytest.fixture
async def endpoint(world: World, org: Org) -> str:
    await world.create_endpoint("my-org-llama", org)
    return ENDPOINT


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/management/v1/orgs/absent/models"),
        ("GET", f"/management/v1/orgs/absent/models/{ARCH}/versions"),
        ("GET", f"/management/v1/orgs/absent/models/{ARCH}/versions/1"),
        ("DELETE", f"/management/v1/orgs/absent/models/{ARCH}/versions/1"),
        ("GET", "/management/v1/orgs/absent/endpoints"),
        ("GET", f"{MODELS}/absent/versions"),
        ("GET", f"{MODELS}/absent/versions/1"),
        ("GET", f"{VERSIONS}/1"),
        ("GET", f"{VERSIONS}/production"),
        ("DELETE", f"{VERSIONS}/1"),
        ("GET", "/management/v1/endpoints/absent"),
        ("GET", "/management/v1/endpoints/absent:deployModel"),
        ("POST", "/management/v1/endpoints/absent:rollback"),
        ("GET", "/management/v1/deployments/absent"),
        ("GET", "/management/v1/deployments/550e8400-e29b-41d4-a716-446655440000"),
        ("POST", "/management/v1/deployments/550e8400-e29b-41d4-a716-446655440000:cancel"),
        ("POST", "/management/v1/deployments/550e8400-e29b-41d4-a716-446655440000:promote"),
    ],
)
async def test_what_is_unknown_is_not_found(member: Caller, method: str, path: str) -> None:
    answer = await member(method, path)
    assert answer.status_code == 404
    assert answer.json().keys() == FLAT
    assert answer.json()["type"] == "not_found_error"


async def test_an_upload_to_an_unknown_architecture_is_not_found(
    world: World, member: Caller
) -> None:
    for arch_id in ("absent", "a\x00b", "../x", ""):
        body = {**upload_body(), "model_arch_id": arch_id}
        check(
            await member("POST", UPLOAD, body), 404, "model_architecture_not_found", "model_arch_id"
        )
    assert world.woken == []


@pytest.mark.parametrize(
    "alias", ["1", "12", "A1", "a", "", "a/b", "a\x00b", "a" * 129, "a_b", "prod\n"]
)
async def test_a_malformed_alias_is_a_bad_request(member: Caller, alias: str) -> None:
    check(
        await member("POST", UPLOAD, upload_body(version_aliases=[alias])),
        400,
        "invalid_alias",
        "version_aliases",
    )
    await upload(member)
    check(
        await member("PATCH", f"{VERSIONS}/1", {"version_aliases": [alias]}), 400, "invalid_alias"
    )


async def test_an_alias_twice_in_a_list_is_a_bad_request(member: Caller) -> None:
    body = upload_body(version_aliases=["production", "production"])
    check(await member("POST", UPLOAD, body), 400, "duplicate_alias")


async def test_a_thousand_aliases_are_a_bad_request(member: Caller) -> None:
    body = upload_body(version_aliases=[f"alias-{n}" for n in range(1000)])
    check(await member("POST", UPLOAD, body), 400, "wrong_api_format", "model.version_aliases")


async def test_a_taken_alias_is_a_lasting_conflict_that_names_its_holder(
    world: World, member: Caller
) -> None:
    await upload(member, version_aliases=["production"])
    world.woken.clear()
    for answer in (
        await member("POST", UPLOAD, upload_body(version_aliases=["fresh", "production"])),
        await member("POST", UPLOAD, upload_body(version_aliases=["production"])),
    ):
        body = check(answer, 409, "alias_taken", "version_aliases")
        assert "held by version 1" in body["message"]
        assert answer.headers["x-should-retry"] == "false"
    assert world.woken == []
    await upload(member)
    check(
        await member("PATCH", f"{VERSIONS}/2", {"version_aliases": ["production"]}),
        409,
        "alias_taken",
    )
    versions = (await member("GET", VERSIONS)).json()["model_versions"]
    assert [v["response"]["version_aliases"] for v in versions] == [["production"], []]


@pytest.mark.parametrize(
    "uri",
    [
        "file:///etc/passwd",
        "https://bucket/x",
        "s3://bucket",
        "s3://169.254.169.254/x",
        "s3://b/../x",
        "s3://b\x00/x",
        "",
    ],
)
async def test_a_bad_weight_uri_is_a_bad_request(member: Caller, uri: str) -> None:
    check(
        await member("POST", UPLOAD, upload_body(weight_uri=uri)),
        400,
        "invalid_weight_uri",
        "weight_uri",
    )


@pytest.mark.parametrize("suffix", ["x\n", "s" * 1024, ""])
async def test_a_bad_suffix_is_a_bad_request(member: Caller, suffix: str) -> None:
    body = upload_body(system_fingerprint_suffix=suffix)
    check(await member("POST", UPLOAD, body), 400, "invalid_fingerprint_suffix")


@pytest.mark.parametrize(
    "ref",
    [
        "0",
        "-1",
        "+1",
        "01",
        "1e30",
        "9" * 30,
        "2147483648",
        "%D9%A1",
        "%EF%BC%91",
        "1.0",
        "%20",
        "A",
    ],
)
async def test_a_version_is_written_in_one_way_only(member: Caller, ref: str) -> None:
    for method, body in (("GET", None), ("DELETE", None), ("PATCH", {"version_aliases": []})):
        check(
            await member(method, f"{VERSIONS}/{ref}", body), 400, "invalid_version_id", "version_id"
        )


@pytest.mark.parametrize(
    "path", [f"{VERSIONS}/1%00", f"{VERSIONS}/%0a", f"{MODELS}/a%2Fb/versions"]
)
async def test_paths_no_name_can_have_are_unknown_routes(member: Caller, path: str) -> None:
    answer = await member("GET", path)
    assert (answer.status_code, answer.text) == (404, "")


@pytest.mark.parametrize(
    "model",
    [
        "",
        "1",
        "production",
        f"models/{ARCH}/versions/1",
        f"orgs/my-org/models/{ARCH}/versions/0",
        "orgs/my-org/models/a\x00/versions/1",
    ],
)
async def test_a_deploy_needs_a_versions_name(endpoint: str, member: Caller, model: str) -> None:
    answer = await deploy(member, model)
    assert answer.status_code == 400
    assert answer.json()["param"] == "model"


@pytest.mark.parametrize("status", [None, SyncStatus.ERROR, SyncStatus.CANCELLED])
async def test_a_version_that_is_not_synced_is_not_deployed(
    world: World, org: Org, endpoint: str, member: Caller, status: SyncStatus | None
) -> None:
    await upload(member)
    if status is not None:
        await world.end_sync(org, 1, status)
    world.woken.clear()
    answer = await deploy(member, f"orgs/my-org/models/{ARCH}/versions/1")
    check(answer, 409, "version_not_done", "model")
    assert answer.headers["x-should-retry"] == "false"
    assert world.woken == []
    assert (await member("GET", endpoint)).json()["deployed_models"] == []


async def test_a_version_of_another_architecture_is_not_deployed(
    world: World, org: Org, endpoint: str, member: Caller
) -> None:
    await world.architecture("other-arch")
    answer = await member("POST", UPLOAD, {**upload_body(), "model_arch_id": "other-arch"})
    assert answer.status_code == 200
    await world.end_sync(org, 1, arch_id="other-arch")
    check(
        await deploy(member, "orgs/my-org/models/other-arch/versions/1"),
        400,
        "model_architecture_mismatch",
    )


async def test_a_foreign_version_is_not_deployed_and_looks_absent(
    world: World, org: Org, endpoint: str, member: Caller
) -> None:
    other = await world.org("other")
    _, text = await world.key(KeyKind.MANAGEMENT, other)
    theirs = Caller(world.client, text)
    await theirs(
        "POST",
        "/management/v1/orgs/other/models:upload",
        upload_body(version_aliases=["production"]),
    )
    await world.end_sync(other, 1)
    for org_name in ("other", "my-org"):
        for ref in ("1", "production"):
            answer = await deploy(member, f"orgs/{org_name}/models/{ARCH}/versions/{ref}")
            assert answer.status_code == 404
    foreign = await deploy(theirs, f"orgs/other/models/{ARCH}/versions/1")
    check(foreign, 404, "endpoint_not_found")


async def test_a_version_in_use_is_not_deleted(
    world: World, org: Org, endpoint: str, member: Caller
) -> None:
    await upload(member)
    await world.end_sync(org, 1)
    deployment = (await deploy(member, f"orgs/my-org/models/{ARCH}/versions/1")).json()["name"]
    answer = await member("DELETE", f"{VERSIONS}/1")
    body = check(answer, 409, "model_version_in_use")
    assert deployment in body["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert (await member("GET", f"{VERSIONS}/1")).status_code == 200


async def test_too_many_deployments_waiting_are_refused(
    world: World, org: Org, endpoint: str, member: Caller
) -> None:
    await upload(member)
    await world.end_sync(org, 1)
    name = f"orgs/my-org/models/{ARCH}/versions/1"
    for _ in range(world.parts.settings.deployment_queue_max):
        assert (await deploy(member, name)).status_code == 200
    check(await deploy(member, name), 429, "deployment_queue_full")


async def test_an_unknown_route_is_an_empty_404(member: Caller) -> None:
    for path in (
        "/",
        "/management/v1",
        "/management/v1/orgs/my-org",
        "/docs",
        "/management/v2/endpoints/x",
        f"{ENDPOINT}//",
    ):
        answer = await member("GET", path)
        assert (answer.status_code, answer.content) == (404, b"")
        assert answer.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", f"{VERSIONS}/1", "DELETE, GET, PATCH"),
        ("POST", MODELS, "GET"),
        ("HEAD", MODELS, "GET"),
        ("OPTIONS", UPLOAD, "POST"),
        ("TRACE", ENDPOINT, "GET"),
        ("GET", UPLOAD, "POST"),
        ("PUT", "/admin/v1/keys", "GET, POST"),
    ],
)
async def test_a_wrong_method_is_refused_and_the_right_ones_are_named(
    member: Caller, method: str, path: str, allow: str
) -> None:
    answer = await member(method, path)
    assert answer.status_code == 405
    assert answer.headers["allow"] == allow
    if method != "HEAD":
        check(answer, 405, "method_not_allowed")


async def test_a_method_cannot_be_overridden(world: World, member: Caller) -> None:
    await upload(member)
    headers = {"authorization": f"Bearer {member.key}", "x-http-method-override": "DELETE"}
    await world.client.get(f"{VERSIONS}/1?_method=DELETE", headers=headers)
    assert (await member("GET", f"{VERSIONS}/1")).status_code == 200


async def test_an_unexpected_failure_is_a_flat_500_with_the_requests_id(
    world: World, member: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def crash(*_: object) -> None:
        raise RuntimeError("the secret cause")

    monkeypatch.setattr("weighbridge.registry.service.architectures", crash)
    answer = await member("GET", MODELS)
    body = check(answer, 500, "internal_error")
    assert answer.headers["x-request-id"] in body["message"]
    assert "secret cause" not in answer.text


async def test_without_its_database_the_api_says_so_and_when_to_come_back(
    world: World, member: Caller
) -> None:
    gone = Database("postgresql://nobody@127.0.0.1:1/none")
    world.client._transport.app.state.parts = replace_database(world, gone)
    answer = await member("POST", UPLOAD, upload_body())
    check(answer, 503, "database_unavailable")
    assert int(answer.headers["retry-after"]) >= 1
    assert world.woken == []
    await gone.close()


def replace_database(world: World, database: Database) -> object:
    import dataclasses

    return dataclasses.replace(world.parts, database=database)
