"""Who may call what: every route of the app times every kind of key, generated from the app's own schema."""

import json
from collections.abc import Mapping

import httpx
import pytest

from control_world import ARCH, Caller, World
from weighbridge.accounts import service as accounts
from weighbridge.accounts.keys import key_text
from weighbridge.accounts.model import KeyKind, Org
from weighbridge.api.app import routes_app
from weighbridge.clock import Clock
from weighbridge.registry.names import VersionName
from weighbridge.replicas.model import ReplicaState
from weighbridge.rollouts import service as rollouts
from weighbridge.storage.tables import bucket_bindings, replicas

ALIASES: dict[str, list[str]] = {"version_aliases": []}
MOVE: dict[str, object] = {"to": 1, "expected": None}
DEPLOY = {"model": f"orgs/my-org/models/{ARCH}/versions/1"}
UPLOAD = {"model_arch_id": ARCH, "model": {"weight_uri": "s3://my-bucket/weights"}}

# What each route answers to the right key (k15) with the objects of `objects` below. A new route without a
# row here fails the first test.
MANAGEMENT: Mapping[tuple[str, str], tuple[object, int]] = {
    ("GET", "/management/v1/orgs/{org_name}/models"): (None, 200),
    ("POST", "/management/v1/orgs/{org_name}/models:upload"): (UPLOAD, 200),
    ("POST", "/management/v1/orgs/{org_name}/models:explainAccess"): ({"weight_uri": "s3://b"}, 200),
    ("GET", "/management/v1/orgs/{org_name}/models/{model_arch_id}/versions"): (None, 200),
    ("GET", "/management/v1/orgs/{org_name}/models/{model_arch_id}/versions:diff"): (None, 400),
    ("GET", "/management/v1/orgs/{org_name}/models/{model_arch_id}/versions/{version_id}"): (None, 200),
    ("PATCH", "/management/v1/orgs/{org_name}/models/{model_arch_id}/versions/{version_id}"): (ALIASES, 200),
    ("DELETE", "/management/v1/orgs/{org_name}/models/{model_arch_id}/versions/{version_id}"): (None, 409),
    ("POST", "/management/v1/orgs/{org_name}/models/{model_arch_id}/aliases/{alias}:move"): (MOVE, 200),
    ("GET", "/management/v1/orgs/{org_name}/models/{model_arch_id}/aliases/{alias}/history"): (None, 200),
    ("GET", "/management/v1/orgs/{org_name}/endpoints"): (None, 200),
    ("GET", "/management/v1/endpoints/{endpoint_id}"): (None, 200),
    ("POST", "/management/v1/endpoints/{endpoint_id}:deployModel"): (DEPLOY, 200),
    ("POST", "/management/v1/endpoints/{endpoint_id}:rollback"): (None, 409),
    ("POST", "/management/v1/endpoints/{endpoint_id}:scale"): ({"replicas": 1}, 403),
    ("POST", "/management/v1/endpoints/{endpoint_id}:forceDrain"): ({}, 200),
    ("GET", "/management/v1/deployments"): (None, 200),
    ("GET", "/management/v1/deployments/{deployment_id}"): (None, 200),
    ("POST", "/management/v1/deployments/{deployment_id}:promote"): (None, 409),
    ("POST", "/management/v1/deployments/{deployment_id}:cancel"): (None, 200),
    ("GET", "/management/v1/deployments/{deployment_id}/receipt"): (None, 200),
    ("GET", "/management/v1/usage"): (None, 200),
}  # fmt: skip
ADMIN: Mapping[tuple[str, str], tuple[object, int]] = {
    ("POST", "/admin/v1/orgs"): ({"org_name": "third"}, 200),
    ("GET", "/admin/v1/orgs"): (None, 200),
    ("GET", "/admin/v1/orgs/{org_name}"): (None, 200),
    ("PATCH", "/admin/v1/orgs/{org_name}"): ({"s3_role_arn": None}, 200),
    ("GET", "/admin/v1/orgs/{org_name}/s3-setup"): (None, 400),
    ("GET", "/admin/v1/buckets"): (None, 200),
    ("DELETE", "/admin/v1/buckets/{bucket}"): (None, 200),
    ("GET", "/admin/v1/store"): (None, 200),
    ("POST", "/admin/v1/store:verify"): (None, 200),
    ("POST", "/admin/v1/store:collect"): ({"dry_run": True}, 200),
    ("POST", "/admin/v1/keys"): ({"kind": "inference", "org_name": "my-org", "name": "x"}, 200),
    ("GET", "/admin/v1/keys"): (None, 200),
    ("PATCH", "/admin/v1/keys/{key_id}"): ({"limits": {"requests_day": 5}}, 200),
    ("DELETE", "/admin/v1/keys/{key_id}"): (None, 200),
    ("POST", "/admin/v1/architectures"): ({"model_arch_id": "x", "source": "/nowhere"}, 400),
    ("GET", "/admin/v1/architectures"): (None, 200),
    ("GET", "/admin/v1/architectures/{model_arch_id}"): (None, 200),
    ("DELETE", "/admin/v1/architectures/{model_arch_id}"): (None, 409),
    ("GET", "/admin/v1/architectures/{model_arch_id}/probes"): (None, 200),
    ("PUT", "/admin/v1/architectures/{model_arch_id}/probes"): ({"probes": []}, 200),
    ("GET", "/admin/v1/endpoints/{endpoint_id}/probes"): (None, 200),
    ("PUT", "/admin/v1/endpoints/{endpoint_id}/probes"): ({"probes": []}, 200),
    ("POST", "/admin/v1/endpoints/{endpoint_id}/probes:run"): ({}, 400),
    ("POST", "/admin/v1/endpoints"): ({"endpoint_id": "new", "org_name": "my-org", "model_arch_id": ARCH}, 200),
    ("GET", "/admin/v1/endpoints"): (None, 200),
    ("GET", "/admin/v1/endpoints/{endpoint_id}"): (None, 200),
    ("PATCH", "/admin/v1/endpoints/{endpoint_id}"): ({}, 200),
    ("DELETE", "/admin/v1/endpoints/{endpoint_id}"): (None, 409),
    ("GET", "/admin/v1/replicas"): (None, 200),
    ("GET", "/admin/v1/replicas/{replica_id}/logs"): (None, 200),
    ("GET", "/admin/v1/nodes"): (None, 200),
    ("GET", "/admin/v1/status"): (None, 200),
    ("GET", "/admin/v1/usage"): (None, 200),
}  # fmt: skip
INFERENCE: Mapping[tuple[str, str], tuple[object, int]] = {
    ("GET", "/api/v1/metrics/organizations/{organization_id}"): (None, 200),
}
ROWS = {**MANAGEMENT, **ADMIN, **INFERENCE}
OPENS = {
    KeyKind.MANAGEMENT: (MANAGEMENT, {KeyKind.MANAGEMENT, KeyKind.BOTH}),
    KeyKind.ADMIN: (ADMIN, {KeyKind.ADMIN}),
    KeyKind.INFERENCE: (INFERENCE, {KeyKind.INFERENCE, KeyKind.BOTH}),
}
"""By the key that a surface asks for: its routes, and every kind of key that opens them."""


def routes() -> set[tuple[str, str]]:
    paths = routes_app(Clock()).openapi()["paths"]
    return {(method.upper(), path) for path, operations in paths.items() for method in operations}


def test_every_route_has_a_row() -> None:
    assert routes() == set(ROWS)


def test_nothing_but_the_schema_is_served_beside_the_documented_routes() -> None:
    app = routes_app(Clock())
    plain = {getattr(route, "path", None) for route in app.routes} - {None}
    assert plain - {path for _, path in ROWS} <= {"/openapi.json"}


@pytest.fixture
async def objects(world: World, org: Org, member: Caller) -> dict[str, str]:
    """One of everything, of my-org; names for the parameters of every path."""
    await world.create_endpoint("my-org-llama", org)
    await member("POST", "/management/v1/orgs/my-org/models:upload", UPLOAD)
    version = await world.end_sync(org, 1)
    deployed = await member("POST", "/management/v1/endpoints/my-org-llama:deployModel", DEPLOY)
    deployment_id = str(deployed.json()["name"])
    async with world.database.begin() as tx:
        await tx.execute(
            replicas.insert().values(
                id="r1",
                endpoint_id="my-org-llama",
                deployment_id=deployment_id,
                version_id=version.id,
                version_number=1,
                digest="d",
                fingerprint="f",
                state=ReplicaState.READY,
                slot=3,
                created_at=world.time,
                state_since=world.time,
            )
        )
    key, _ = await world.key(KeyKind.INFERENCE, org)
    async with world.database.begin() as tx:
        await tx.execute(
            bucket_bindings.insert().values(bucket="my-bucket", org_id=org.id, bound_at=world.time)
        )
    return {"bucket": "my-bucket",
        "org_name": "my-org", "model_arch_id": ARCH, "version_id": "1", "endpoint_id": "my-org-llama",
        "deployment_id": deployment_id, "key_id": key.id, "replica_id": "r1", "organization_id": org.id,
        "alias": "production",
    }  # fmt: skip


async def wrong_keys(world: World, org: Org, right: KeyKind) -> dict[str, str]:
    """Authorization headers that open nothing (C6's k2 to k9, as far as they apply)."""
    other = await world.org("other")
    right_org = None if right is KeyKind.ADMIN else org
    await world.key(KeyKind.ADMIN, None)  # so that the one below is not the last
    key, revoked = await world.key(right, right_org)
    async with world.database.begin() as tx:
        await accounts.revoke(tx, key.id, now=world.time)
    _, expired = await world.key(right, right_org, expires_in_s=1)
    clock = world.parts.clock
    unknown = key_text(right, clock.new_short_id(), clock.new_secret())
    known, text = await world.key(right, right_org)
    forged = key_text(right, known.id, clock.new_secret())
    bad_checksum = text[:-1] + ("0" if text[-1] != "0" else "1")
    headers = {
        "k2 empty": "", "k2 no key": "Bearer ", "k3 malformed": "Bearer nonsense", "k3 other scheme": f"Basic {text}",
        "k3 no scheme": text, "k3 sql": "Bearer ' OR 1=1 --", "k3 long": "Bearer " + "x" * 65536,
        "k3 two keys": f"Bearer {text} {text}", "k4 unknown": f"Bearer {unknown}", "k4 forged": f"Bearer {forged}",
        "k5 bad checksum": f"Bearer {bad_checksum}", "k6 revoked": f"Bearer {revoked}",
        "k7 expired": f"Bearer {expired}",
    }  # fmt: skip
    kinds = set(KeyKind) - OPENS[right][1]
    for kind in sorted(kinds):
        for name, of in (("k8", org), ("k9", other)):
            owner = None if kind is KeyKind.ADMIN else of
            headers[f"{name} {kind} of {of.name}"] = f"Bearer {(await world.key(kind, owner))[1]}"
    world.pass_time(2)
    return headers


async def send(
    client: httpx.AsyncClient, route: tuple[str, str], objects: Mapping[str, str], headers: object
) -> httpx.Response:
    method, template = route
    body = ROWS[route][0]
    content = None if body is None else json.dumps(body)
    json_type = {} if body is None else {"content-type": "application/json"}
    pairs = [*json_type.items(), *(headers.items() if isinstance(headers, dict) else headers)]
    return await client.request(method, template.format(**objects), content=content, headers=pairs)


@pytest.mark.parametrize("right", list(OPENS))
async def test_no_wrong_key_opens_any_route(
    world: World, org: Org, objects: dict[str, str], right: KeyKind
) -> None:
    wrong = await wrong_keys(world, org, right)
    woken = list(world.woken)
    for route in sorted(OPENS[right][0]):
        for name, header in wrong.items():
            answer = await send(world.client, route, objects, {"authorization": header})
            assert answer.status_code == 401, (route, name, answer.text)
            assert answer.json()["code"] == "wrong_api_key", (route, name)
            assert answer.json()["message"] == "Wrong API Key"
    assert world.woken == woken


@pytest.mark.parametrize("right", list(OPENS))
async def test_a_key_anywhere_but_in_one_authorization_header_is_not_seen(
    *,
    world: World,
    org: Org,
    objects: dict[str, str],
    right: KeyKind,
) -> None:
    _, key = await world.key(right, None if right is KeyKind.ADMIN else org)
    for route in sorted(OPENS[right][0]):
        none = await send(world.client, route, objects, {})
        assert (none.status_code, none.json()) == (403, {"detail": "Not authenticated"}), route
        for headers in ({"x-api-key": key}, {"cookie": f"api_key={key}"}, {"api-key": key}):
            hidden = await send(world.client, route, objects, headers)
            assert (hidden.status_code, hidden.json()) == (403, {"detail": "Not authenticated"})
        twice = [("authorization", f"Bearer {key}"), ("authorization", f"Bearer {key}")]
        assert (await send(world.client, route, objects, twice)).status_code == 401, route


async def test_a_refused_caller_learns_nothing_about_his_body(world: World) -> None:
    answer = await world.client.post(
        "/management/v1/orgs/my-org/models:upload", content=b"\xff" * 2_000_000
    )
    assert (answer.status_code, answer.json()) == (403, {"detail": "Not authenticated"})


@pytest.mark.parametrize("route", sorted(ROWS), ids=" ".join)
async def test_the_right_key_opens_the_route(
    world: World, org: Org, objects: dict[str, str], route: tuple[str, str]
) -> None:
    right = next(kind for kind, (routes, _) in OPENS.items() if route in routes)
    _, key = await world.key(right, None if right is KeyKind.ADMIN else org)
    answer = await send(world.client, route, objects, {"authorization": f"bearer {key}"})
    assert answer.status_code == ROWS[route][1], answer.text


async def make_everything(world: World) -> None:
    """my-org with a version, an endpoint and a deployment of the id below."""
    org = await world.org("my-org")
    _, text = await world.key(KeyKind.MANAGEMENT, org)
    member = Caller(world.client, text)
    await world.create_endpoint("my-org-llama", org)
    body = {**UPLOAD, "model": {**UPLOAD["model"], "version_aliases": ["production"]}}
    await member("POST", "/management/v1/orgs/my-org/models:upload", body)
    await world.end_sync(org, 1)
    async with world.database.begin() as tx:
        await rollouts.deploy(
            tx,
            org,
            "my-org-llama",
            VersionName.parse(DEPLOY["model"]),
            deployment_id=DEPLOYMENT_ID,
            now=world.time,
            queue_max=16,
        )


DEPLOYMENT_ID = "00000000-0000-4000-8000-000000000000"


async def test_another_orgs_objects_look_exactly_like_none(world: World) -> None:
    """k10: the same status, headers and bytes before the other org's objects exist and after (T2)."""
    _, text = await world.key(KeyKind.MANAGEMENT, await world.org("stranger"))

    async def look() -> dict[tuple[str, str, str, str], tuple[object, ...]]:
        seen: dict[tuple[str, str, str, str], tuple[object, ...]] = {}
        for route in sorted(MANAGEMENT):
            for org_name in ("my-org", "stranger"):
                for ref in ("1", "production"):
                    names = {
                        "org_name": org_name, "model_arch_id": ARCH, "version_id": ref,
                        "endpoint_id": "my-org-llama", "deployment_id": DEPLOYMENT_ID, "alias": "production",
                    }  # fmt: skip
                    if route[1].endswith(":upload") and org_name == "stranger":
                        continue  # its own uploads count up
                    answer = await send(
                        world.client, route, names, {"authorization": f"Bearer {text}"}
                    )
                    headers = {k: v for k, v in answer.headers.items() if k != "x-request-id"}
                    seen[*route, org_name, ref] = (answer.status_code, headers, answer.content)
        return seen

    before = await look()
    await make_everything(world)
    after = await look()
    assert after == before
    own = {
        "/management/v1/orgs/{org_name}/models",
        "/management/v1/orgs/{org_name}/models:explainAccess",
        "/management/v1/orgs/{org_name}/endpoints",
        "/management/v1/orgs/{org_name}/models/{model_arch_id}/aliases/{alias}/history",
    }
    versions = "/management/v1/orgs/{org_name}/models/{model_arch_id}/versions"
    for (_, path, org_name, _), answer in after.items():
        mine = org_name == "stranger" and (path in own or path == versions)
        own_usage = path in ("/management/v1/usage", "/management/v1/deployments")
        expected = 200 if mine or own_usage else 404
        if org_name == "stranger" and path == f"{versions}:diff":
            expected = 400
        assert answer[0] == expected, (path, org_name)
