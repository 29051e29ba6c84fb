"""Bodies that are refused: not JSON, not by their headers, too large, with members that are unknown or mistyped."""

import json

import pytest
from refusals import ENDPOINT, UPLOAD, VERSIONS, check, upload_body

from control_world import Caller, World


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 400, "wrong_api_format"),
        (b"not json", 400, "wrong_api_format"),
        (b"[]", 400, "wrong_api_format"),
        (b"null", 400, "wrong_api_format"),
        (b'"x"', 400, "wrong_api_format"),
        (b'{"model_arch_id": "a", "model_arch_id": "b", "model": {}}', 400, "wrong_api_format"),
        (b'{"model_arch_id": NaN}', 400, "wrong_api_format"),
        (b'{"model_arch_id": 1e999}', 400, "wrong_api_format"),
        (b'{"model_arch_id": ' + b"9" * 5000 + b"}", 400, "wrong_api_format"),
        (b'{"model_arch_id": 9223372036854775808}', 400, "wrong_api_format"),
        (b'{"model_arch_id": "\xff"}', 400, "wrong_api_format"),
        (
            b'{"model_arch_id": "\\ud800", "model": {"weight_uri": "s3://bucket/x"}}',
            400,
            "wrong_api_format",
        ),
        (b'\xef\xbb\xbf{"model_arch_id": "a"}', 400, "wrong_api_format"),
        (b'{"a":' * 100_000, 400, "wrong_api_format"),
        (b'{"a":' * 5_000 + b"1" + b"}" * 5_000, 400, "wrong_api_format"),
        (b" " * (1024 * 1024 + 1), 413, "body_too_large"),
        (b'{"model_arch_id": "' + b"a" * 9_000_000 + b'"}', 413, "body_too_large"),
        (b'{"model": {"weight_uri": "s3://bucket/x"}}', 400, "wrong_api_format"),
        (b'{"model_arch_id": "a"}', 400, "wrong_api_format"),
    ],
)
async def test_a_body_that_is_not_the_one_json_object_is_refused(
    world: World, member: Caller, content: bytes, status: int, code: str
) -> None:
    headers = {"authorization": f"Bearer {member.key}", "content-type": "application/json"}
    check(await world.client.post(UPLOAD, content=content, headers=headers), status, code)
    assert world.woken == []


async def test_a_body_sent_in_pieces_is_cut_off_at_the_limit(world: World, member: Caller) -> None:
    sent = 0

    async def pieces() -> object:
        nonlocal sent
        while sent < 100:
            sent += 1
            yield b" " * 65536

    headers = {"authorization": f"Bearer {member.key}", "content-type": "application/json"}
    check(await world.client.post(UPLOAD, content=pieces(), headers=headers), 413, "body_too_large")


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "text/plain"},
        {"content-type": ""},
        {},
        {"content-type": "application/json; charset=utf-16"},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
)
async def test_a_body_that_is_not_json_by_its_headers_is_refused(
    world: World, member: Caller, headers: dict[str, str]
) -> None:
    content = json.dumps(upload_body()).encode()
    headers = {"authorization": f"Bearer {member.key}", **headers}
    check(
        await world.client.post(UPLOAD, content=content, headers=headers),
        415,
        "unsupported_content_type",
    )


async def test_a_content_type_with_utf_8_is_taken(world: World, member: Caller) -> None:
    headers = {
        "authorization": f"Bearer {member.key}",
        "content-type": "application/json; charset=UTF-8",
    }
    answer = await world.client.post(UPLOAD, content=json.dumps(upload_body()), headers=headers)
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        ({**upload_body(), "org_name": "my-org"}, ["body", "org_name"]),
        (upload_body(region="x"), ["body", "model", "region"]),
        (upload_body(endpoint_url="http://x"), ["body", "model", "endpoint_url"]),
        (upload_body(version_aliases="production"), ["body", "model", "version_aliases"]),
        (upload_body(version_aliases=[1]), ["body", "model", "version_aliases", 0]),
        (upload_body(weight_uri=1), ["body", "model", "weight_uri"]),
        (upload_body(weight_uri=None), ["body", "model", "weight_uri"]),
        ({**upload_body(), "model_arch_id": ["a"]}, ["body", "model_arch_id"]),
        ({**upload_body(), "model": None}, ["body", "model"]),
    ],
)
async def test_unknown_and_mistyped_members_are_named(
    member: Caller, body: dict[str, object], loc: list[object]
) -> None:
    answer = check(await member("POST", UPLOAD, body), 400, "wrong_api_format")
    assert answer["type"] == "invalid_request_error"
    assert answer["detail"][0]["loc"] == loc
    assert answer["detail"][0].keys() == {"loc", "msg", "type"}
    assert answer["param"] == ".".join(str(part) for part in loc[1:])


async def test_no_answer_echoes_at_length(member: Caller) -> None:
    long = "x" * 10_000
    answers = [
        await member("POST", UPLOAD, {**upload_body(), long: 1}),
        await member("POST", UPLOAD, {**upload_body(), "model_arch_id": long}),
        await member("POST", UPLOAD, upload_body(weight_uri=long)),
        await member("POST", UPLOAD, upload_body(version_aliases=[long])),
        await member("POST", f"{ENDPOINT}:deployModel", {"model": long}),
        await member("GET", f"/management/v1/orgs/{long}/models"),
        await member("GET", f"/management/v1/endpoints/{long}"),
        await member("GET", f"/management/v1/deployments/{long}"),
        await member("GET", f"{VERSIONS}/{long}"),
    ]
    for answer in answers:
        assert 400 <= answer.status_code < 500
        assert "x" * 201 not in answer.text
