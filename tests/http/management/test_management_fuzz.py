"""Whatever is sent, the answer is one of ours: never a 500, always the one shape of an error."""

import json

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control_world import ARCH, Caller, World

MODELS = "/management/v1/orgs/my-org/models"
SEGMENTS = st.text(min_size=1, max_size=20) | st.sampled_from(
    ["1", "0", "production", ARCH, "my-org", "..", "%", ":", "x:deployModel", "\x00", "٣", "9" * 40]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | SEGMENTS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
UPLOADS = st.fixed_dictionaries(
    {"model_arch_id": st.just(ARCH) | VALUES},
    optional={
        "model": st.fixed_dictionaries(
            {"weight_uri": st.just("s3://bucket/x") | SEGMENTS.map("s3://".__add__) | VALUES},
            optional={
                "version_aliases": st.lists(SEGMENTS, max_size=3) | VALUES,
                "system_fingerprint_suffix": SEGMENTS | VALUES,
                "extra": VALUES,
            },
        )
        | VALUES,
        "extra": VALUES,
    },
)
FUZZ = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def check(answer: httpx.Response) -> None:
    assert answer.status_code < 500, answer.text
    if answer.status_code == 404 and not answer.content:
        assert answer.headers["content-type"].startswith("text/plain")
    elif answer.status_code != 200:
        assert answer.json().keys() == {"message", "type", "param", "code", "detail"}
        assert answer.json()["message"]


def encode(value: object) -> bytes:
    return json.dumps(value).encode()


@FUZZ
@given(body=UPLOADS | VALUES)
async def test_any_upload_body_is_taken_or_refused(member: Caller, body: object) -> None:
    headers = {"authorization": f"Bearer {member.key}", "content-type": "application/json"}
    check(await member.client.post(f"{MODELS}:upload", content=encode(body), headers=headers))


@FUZZ
@given(content=st.binary(max_size=200))
async def test_any_bytes_are_taken_or_refused(member: Caller, content: bytes) -> None:
    headers = {"authorization": f"Bearer {member.key}", "content-type": "application/json"}
    check(await member.client.post(f"{MODELS}:upload", content=content, headers=headers))


@FUZZ
@given(
    method=st.sampled_from(["GET", "POST", "PATCH", "DELETE"]),
    org=SEGMENTS | st.just("my-org"),
    arch=SEGMENTS | st.just(ARCH),
    ref=SEGMENTS,
    endpoint=SEGMENTS,
    body=VALUES,
)
async def test_any_path_is_answered(
    world: World,
    *,
    member: Caller,
    method: str,
    org: str,
    arch: str,
    ref: str,
    endpoint: str,
    body: object,
) -> None:
    headers = {"authorization": f"Bearer {member.key}", "content-type": "application/json"}
    for path in (
        f"/management/v1/orgs/{org}/models/{arch}/versions/{ref}",
        f"/management/v1/endpoints/{endpoint}",
        f"/management/v1/endpoints/{endpoint}:deployModel",
        f"/management/v1/endpoints/{endpoint}:scale",
        f"/management/v1/endpoints/{endpoint}:forceDrain",
        f"/management/v1/deployments/{ref}:cancel",
        f"/management/v1/deployments/{ref}:promote",
        f"/management/v1/orgs/{org}/models/{arch}/aliases/{ref}:move",
        f"/management/v1/orgs/{org}/models/{arch}/aliases/{ref}/history",
    ):
        url = httpx.URL("http://control", raw_path=quote(path))
        check(await world.client.request(method, url, content=encode(body), headers=headers))


def quote(path: str) -> bytes:
    """Every byte outside the plainest percent-encoded, so that any text can stand in a path."""
    plain = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~/:"
    return b"".join(
        bytes([byte]) if byte in plain else b"%%%02X" % byte
        for byte in path.encode(errors="replace")
    )


@FUZZ
@given(text=st.text(st.characters(codec="ascii", exclude_characters="\r\n\x00"), max_size=80))
async def test_any_authorization_opens_nothing(world: World, text: str) -> None:
    answer = await world.client.get(MODELS, headers={"authorization": text.strip()})
    assert answer.status_code == 401
    answer = await world.client.get(MODELS, headers={"authorization": f"Bearer {text}".strip()})
    assert answer.status_code == 401
