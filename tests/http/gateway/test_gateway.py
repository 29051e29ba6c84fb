"""The gateway's answers on the wire: a real worker process, stub engines with faults behind it."""

import asyncio
import json
import time
from io import BytesIO

import pytest
from aiohttp import web

from gateway_process import ENDPOINT, EXPIRED_KEY, KEY, OTHER_KEY, until
from weighbridge.gateway.proxy.control import SILENT_S

BODY = {"model": ENDPOINT, "messages": [{"role": "user", "content": "hi"}]}


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def events(text: str) -> list:
    parts = [part.removeprefix("data: ") for part in text.strip().split("\n\n")]
    return [part if part == "[DONE]" else json.loads(part) for part in parts]


async def test_a_chat_answer_has_the_public_shape(site):
    answer, text = await site.chat(service_tier="auto")
    body = json.loads(text)
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert len(answer.headers["x-request-id"]) == 36
    assert "aiohttp" not in answer.headers["server"]
    assert list(body) == [
        "id",
        "choices",
        "created",
        "model",
        "object",
        "system_fingerprint",
        "time_info",
        "usage",
        "service_tier_used",
        "service_tier",
    ]
    assert body["id"].startswith("chatcmpl-")
    assert body["model"] == ENDPOINT
    assert body["system_fingerprint"].endswith("-v1")
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 4}
    assert "timings" not in text


async def test_the_engine_gets_its_token_and_nothing_of_the_caller_s_headers(site):
    await site.route(0)
    headers = {"cookie": "a=b", "x-forwarded-for": "1.2.3.4", "x-stainless-lang": "python"}
    await site.post(BODY, headers=headers)
    engine = site.engines[0]
    assert engine.bodies[-1]["model"] == engine.served_name
    assert {name.lower() for name in engine.headers[-1]} == {
        "host",
        "authorization",
        "content-type",
        "content-length",
        "accept-encoding",
        "x-request-id",
        "accept",
    }
    assert KEY not in str(engine.headers[-1])


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_a_stream_ends_with_usage_and_done(site, path):
    member = {"messages": BODY["messages"]} if "chat" in path else {"prompt": "x"}
    answer, text = await site.post({"model": ENDPOINT, "stream": True, **member}, path)
    *chunks, last, done = events(text)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert done == "[DONE]"
    assert last["choices"][0]["finish_reason"] == "stop"
    assert last["usage"]["completion_tokens"] == 5
    assert last["time_info"]["created"] > 0
    assert len({(chunk["id"], chunk["system_fingerprint"]) for chunk in [*chunks, last]}) == 1
    assert not any("usage" in chunk for chunk in chunks)


@pytest.mark.parametrize(
    ("headers", "status", "body"),
    [
        ({"authorization": ""}, 401, None),
        (bearer("wb_inf_no_such"), 401, None),
        (bearer(EXPIRED_KEY), 401, None),
        (bearer("wb_mgmt_x_y"), 401, None),
        ({"authorization": f"Basic {KEY}"}, 401, None),
        (bearer("x" * 60_00), 401, None),
        (bearer("é"), 401, None),
    ],
)
async def test_a_wrong_key_is_401_whatever_is_wrong_with_it(site, headers, status, body):
    answer, text = await site.post(BODY, headers=headers)
    assert answer.status == status
    assert json.loads(text) == {
        "message": "Wrong API Key",
        "type": "invalid_request_error",
        "param": "api_key",
        "code": "wrong_api_key",
    }


async def test_no_authorization_header_is_403_as_on_the_hosted_api(site):
    raw = await talk(site, b"GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    assert raw.startswith(b"HTTP/1.1 403 ")
    assert raw.endswith(b'{"detail":"Not authenticated"}')


async def test_two_authorization_headers_are_401(site):
    line = b"authorization: Bearer " + KEY.encode() + b"\r\n"
    raw = await talk(
        site, b"GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n" + line * 2 + b"\r\n"
    )
    assert raw.startswith((b"HTTP/1.1 401 ", b"HTTP/1.1 400 "))


async def test_a_revoked_key_stops_working_within_moments(site):
    gateway = site.gateway
    revoked = gateway.publish_keys(gateway.key(OTHER_KEY, "org_two"))
    await until(lambda: gateway.view.keys_acked() == revoked)
    answer, _ = await site.chat()
    assert answer.status == 401
    back = gateway.publish_keys()
    await until(lambda: gateway.view.keys_acked() == back)


async def test_names_of_others_and_of_nobody_look_the_same(site):
    answers = set()
    for model in ("nobody-tiny", "other-tiny", "never-tiny"):
        answer, text = await site.post({**BODY, "model": model})
        headers = {k: v for k, v in answer.headers.items() if k not in ("X-Request-ID", "Date")}
        headers.pop("Content-Length")
        answers.add((answer.status, text.replace(model, "…"), str(headers)))
        async with site.session.get(f"{site.gateway.url}/v1/models/{model}") as found:
            assert (found.status, await found.text()) == (answer.status, text)
    ((status, text, _),) = answers
    assert status == 404
    assert json.loads(text)["code"] == "model_not_found"


async def test_models_are_the_org_s_deployed_endpoints(site):
    model = {"id": ENDPOINT, "object": "model", "created": 1736700000, "owned_by": "acme"}
    async with site.session.get(f"{site.gateway.url}/v1/models?format=default") as answer:
        assert await answer.json() == {"object": "list", "data": [model]}
    async with site.session.get(f"{site.gateway.url}/v1/models/{ENDPOINT}") as answer:
        assert await answer.json() == model
    async with site.session.get(f"{site.gateway.url}/public/v1/models") as answer:
        assert await answer.json() == {"object": "list", "data": []}
    async with site.session.get(f"{site.gateway.url}/public/v1/models/{ENDPOINT}") as answer:
        assert answer.status == 404


async def test_tcp_warming_needs_no_key(site):
    raw = await talk(site, b"GET /v1/tcp_warming HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    assert raw.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "path", ["/", "/health", "/metrics", "/invocations", "/v1/embeddings", "/slots", "/v1/"]
)
async def test_paths_of_an_engine_do_not_exist_here(site, path):
    answer, text = await site.post(BODY, path)
    assert (answer.status, text) == (404, "")
    assert answer.headers["content-type"] == "text/plain"


async def test_a_bad_snapshot_changes_nothing_and_is_logged_once(site):
    site.gateway.paths.routes_file.write_bytes(b'{"generation": "x"}')
    await until(lambda: "snapshot.bad" in site.log)
    assert (await site.chat())[0].status == 200
    assert site.log.count("snapshot.bad") == 1
    await site.route(1)
    assert (await site.chat())[0].status == 200


async def test_an_older_table_is_not_applied(site):
    newest, site.gateway.generation = site.gateway.generation, 0
    site.gateway.publish_routes()
    site.gateway.generation = newest
    await until(lambda: "snapshot.older" in site.log)
    assert (await site.chat())[0].status == 200


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (
            (
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n"
                b"transfer-encoding: chunked\r\n\r\n{}"
            ),
            b"400",
        ),
        (
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
            b"400",
        ),
        (b"GET /v1/models HTTP/1.1\r\nhost: x\r\n" + b"a" * 9000 + b": b\r\n\r\n", b"400"),
        (b"GET /v1/models HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 1000 + b"\r\n", b"400"),
        (
            b"GET /v1/models HTTP/1.1\r\nhost: x\r\n"
            + b"".join(b"a%d: %s\r\n" % (i, b"b" * 8000) for i in range(5))
            + b"\r\n",
            b"431",
        ),
        (b"GET /v1/chat/completions HTTP/1.1\r\nhost: x\r\n\r\n", b"405"),
    ],
    ids=["te_and_cl", "two_cl", "long_name", "1000_headers", "40_kib_of_headers", "method"],
)
async def test_malformed_http_is_refused(site, head, status):
    raw = await talk(site, head, until_close=False)
    assert raw.split(b" ", 2)[1] == status
    assert (await site.chat())[0].status == 200


async def test_a_prompt_of_megabytes_arrives_whole(site):
    await site.route(0)
    words = "weigh " * 400_000
    body = json.dumps({**BODY, "messages": [{"role": "user", "content": words}]}).encode()
    url = f"{site.gateway.url}/v1/chat/completions"
    headers = {"content-type": "application/json"}
    async with site.session.post(url, data=BytesIO(body), headers=headers) as answer:
        assert answer.status == 200
    assert site.engines[0].bodies[-1]["messages"][0]["content"] == words


async def test_a_body_over_the_limit_is_413(site):
    size = 8 * 1024 * 1024 + 1
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
        f"content-length: {size}\r\n\r\n"
    )
    raw = await talk(site, head.encode(), until_close=False)
    assert raw.startswith(b"HTTP/1.1 413 ")


async def test_the_access_log_has_facts_and_no_words(site):
    await site.post({**BODY, "messages": [{"role": "user", "content": "CANARY-prompt"}]})

    def lines():
        # Lines are written late: one of an earlier test may still come.
        mine = f'"endpoint_id":"{ENDPOINT}"'
        return [
            line for line in site.log.splitlines() if '"event":"request"' in line and mine in line
        ]

    await until(lines)
    facts = json.loads(lines()[-1])
    assert (facts["status"], facts["version"], facts["key_id"]) == (200, 1, "key_one")
    assert (facts["prompt_tokens"], facts["completion_tokens"]) == (7, 5)
    assert facts["ttft_ms"] <= facts["duration_ms"]
    for secret in ("CANARY", KEY, "w0 "):
        assert secret not in site.log


async def test_probes_and_metrics_are_on_their_own_listener(site):
    await site.chat()
    await site.chat(stream=True)
    base = f"http://127.0.0.1:{site.gateway.probe_port}"
    async with site.session.get(f"{base}/livez") as answer:
        assert answer.status == 200
    async with site.session.get(f"{base}/readyz") as answer:
        assert answer.status == 200
    wanted = (
        'weighbridge_gateway_requests_total{worker="0",route="/v1/chat/completions",'
        f'endpoint="{ENDPOINT}",status="200"}} '
    )
    text = ""
    for _ in range(100):
        async with site.session.get(f"{base}/metrics") as answer:
            text = await answer.text()
        if wanted in text:
            break
        await asyncio.sleep(0.05)
    assert wanted in text
    assert "weighbridge_gateway_completion_tokens_total" in text


async def test_the_control_plane_s_paths_go_to_its_socket_as_they_came(site):
    seen = []

    async def control(request: web.BaseRequest) -> web.StreamResponse:
        seen.append((request.method, request.raw_path, dict(request.headers), await request.read()))
        out = web.StreamResponse(status=418, headers={"x-own": "1", "set-cookie": "a=b"})
        await out.prepare(request)
        await out.write(b"part one, ")
        await out.write(b"part two")
        return out

    runner = web.ServerRunner(web.Server(control, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, str(site.gateway.paths.control_socket)).start()
    try:
        path = "/management/v1/orgs/a%2Fb/models%3Aupload?x=%20y"
        body = b'{"model":1}'
        head = (
            f"POST {path} HTTP/1.1\r\nhost: api.example\r\nauthorization: Bearer k\r\n"
            f"x-forwarded-for: 6.6.6.6\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        raw = await talk(site, head.encode() + body)
        assert raw.startswith(b"HTTP/1.1 418 ")
        assert b"part one, " in raw
        assert b"X-Own: 1" in raw or b"x-own: 1" in raw
        method, got_path, headers, got_body = seen[-1]
        assert (method, got_path, got_body) == ("POST", path, body)
        lower = {name.lower(): value for name, value in headers.items()}
        assert lower["authorization"] == "Bearer k"
        assert lower["host"] == "api.example"
        assert "x-forwarded-for" not in lower
        answer, _ = await site.post({}, "/managementx/v1")
        assert answer.status == 404
        async with site.session.post(
            site.gateway.url + "/admin/v1/orgs", data=BytesIO(b"x" * (1024 * 1024 + 1))
        ) as answer:
            assert answer.status == 413
    finally:
        await runner.cleanup()


async def test_an_api_that_hangs_is_passed_over_and_what_changes_nothing_is_asked_of_another(site):
    asked = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        asked.append(request.method)
        return web.json_response({})

    async def hang(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append("hung")
        hung.append(writer)

    hung: list[asyncio.StreamWriter] = []
    paths = site.gateway.paths
    runner = web.ServerRunner(web.Server(answer, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, str(paths.api_socket("b"))).start()
    silent = await asyncio.start_unix_server(hang, str(paths.api_socket("a")))
    url = f"{site.gateway.url}/management/v1/endpoints/x"
    try:
        began_s = time.monotonic()
        for method in ("GET", "GET", "GET", "POST", "POST"):
            async with site.session.request(method, url) as found:
                assert found.status == 200
        assert SILENT_S <= time.monotonic() - began_s < 2 * SILENT_S
        assert asked.count("hung") == 1
        assert [one for one in asked if one != "hung"] == ["GET", "GET", "GET", "POST", "POST"]
    finally:
        silent.close()
        for writer in hung:
            writer.close()
        await runner.cleanup()
        paths.api_socket("a").unlink()


async def test_without_the_control_plane_inference_serves_on_and_management_is_503(site):
    async with site.session.get(f"{site.gateway.url}/management/v1/endpoints/x") as answer:
        assert answer.status == 503
        assert answer.headers["retry-after"] == "1"
        assert (await answer.json())["code"] == "control_plane_away"
    assert (await site.chat())[0].status == 200


async def talk(site, sent: bytes, *, until_close: bool = True) -> bytes:
    """Raw bytes to the gateway and what comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.gateway.port)
    try:
        writer.write(sent)
        async with asyncio.timeout(10):
            return await (reader.read() if until_close else reader.read(65536))
    finally:
        writer.close()
