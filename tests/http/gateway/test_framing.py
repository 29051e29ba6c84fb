"""Each way to frame a request, right or wrong, has one answer, and the connection one fate: kept or closed."""

import asyncio
import gzip
import json
from dataclasses import dataclass

import pytest

from gateway_process import ENDPOINT, KEY

AUTH = b"Authorization: Bearer " + KEY.encode() + b"\r\n"
HOST = b"Host: gateway\r\n"
JSON = b"Content-Type: application/json\r\n"
BODY = json.dumps({"model": ENDPOINT, "messages": [{"role": "user", "content": "hi"}]}).encode()
POST = b"POST /v1/chat/completions HTTP/1.1\r\n" + HOST + AUTH + JSON
WARM = b"GET /v1/tcp_warming HTTP/1.1\r\n" + HOST
SIZE = b"Content-Length: %d\r\n" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
KEPT, CLOSED = True, False


def chunks(*parts: bytes, last: bytes = b"0\r\n\r\n") -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + last


def get(*lines: bytes, first: bytes = b"GET /v1/tcp_warming HTTP/1.1\r\n") -> bytes:
    return first + b"".join(lines) + b"\r\n"


REQUEST_LINES = {
    "ordinary": (get(HOST), [200], KEPT),
    "http_1_0": (get(HOST, first=b"GET /v1/tcp_warming HTTP/1.0\r\n"), [200], CLOSED),
    "http_1_0_without_host": (get(first=b"GET /v1/tcp_warming HTTP/1.0\r\n"), [200], CLOSED),
    "http_1_0_asks_to_be_kept": (
        get(b"Connection: keep-alive\r\n", first=b"GET /v1/tcp_warming HTTP/1.0\r\n"),
        [200],
        CLOSED,
    ),
    "http_0_9": (b"GET /v1/tcp_warming\r\n\r\n", [400], CLOSED),
    "http_2_preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [505], CLOSED),
    "http_1_2": (get(HOST, first=b"GET / HTTP/1.2\r\n"), [505], CLOSED),
    "http_11": (get(HOST, first=b"GET / HTTP/11\r\n"), [400], CLOSED),
    "lower_case_http": (get(HOST, first=b"GET / http/1.1\r\n"), [400], CLOSED),
    "no_method": (get(HOST, first=b" / HTTP/1.1\r\n"), [400], CLOSED),
    "method_with_control": (get(HOST, first=b"G\x01T / HTTP/1.1\r\n"), [400], CLOSED),
    "method_with_bracket": (get(HOST, first=b"G(T / HTTP/1.1\r\n"), [400], CLOSED),
    "unknown_method_unknown_path": (get(HOST, first=b"BREW /pot HTTP/1.1\r\n"), [404], KEPT),
    "unknown_method": (get(HOST, first=b"BREW /v1/models HTTP/1.1\r\n"), [405], KEPT),
    "get_where_post_belongs": (
        get(HOST, first=b"GET /v1/chat/completions HTTP/1.1\r\n"),
        [405],
        KEPT,
    ),
    "head": (get(HOST, first=b"HEAD /v1/tcp_warming HTTP/1.1\r\n"), [200], KEPT),
    "trace": (get(HOST, AUTH, first=b"TRACE /v1/models HTTP/1.1\r\n"), [405], KEPT),
    "connect": (get(HOST, first=b"CONNECT gateway:443 HTTP/1.1\r\n"), [400], CLOSED),
    "options_star": (get(HOST, first=b"OPTIONS * HTTP/1.1\r\n"), [400], CLOSED),
    "absolute_form": (
        get(HOST, first=b"GET http://other/v1/models HTTP/1.1\r\n"),
        [400],
        CLOSED,
    ),
    "two_spaces": (get(HOST, first=b"GET  /v1/tcp_warming HTTP/1.1\r\n"), [400], CLOSED),
    "space_in_target": (get(HOST, first=b"GET /v1/tcp warming HTTP/1.1\r\n"), [400], CLOSED),
    "tab_in_request_line": (get(HOST, first=b"GET\t/v1/tcp_warming HTTP/1.1\r\n"), [400], CLOSED),
    "target_of_8_bit": (get(HOST, first=b"GET /v1/\xe9 HTTP/1.1\r\n"), [400], CLOSED),
    "long_target": (get(HOST, first=b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n"), [414], CLOSED),
    "empty_line_before": (b"\r\n" + get(HOST), [200], KEPT),
    "two_empty_lines_before": (b"\r\n\r\n" + get(HOST), [400], CLOSED),
    "dots_are_not_resolved": (
        get(HOST, first=b"GET /v1/../management/v1 HTTP/1.1\r\n"),
        [404],
        KEPT,
    ),
    "encoded_slash": (get(HOST, first=b"GET /%2fmanagement/v1 HTTP/1.1\r\n"), [404], KEPT),
    "double_slash": (get(HOST, first=b"GET //management/v1 HTTP/1.1\r\n"), [404], KEPT),
    "tls_hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", [400], CLOSED),
}
FIELDS = {
    "no_host": (get(), [400], CLOSED),
    "two_hosts": (get(HOST, HOST), [400], CLOSED),
    "host_with_path": (get(b"Host: a/b\r\n"), [400], CLOSED),
    "host_with_user": (get(b"Host: a@b\r\n"), [400], CLOSED),
    "host_of_ipv6": (get(b"Host: [::1]:80\r\n"), [200], KEPT),
    "bare_lf": (b"GET /v1/tcp_warming HTTP/1.1\nHost: gateway\n\n", [400], CLOSED),
    "bare_lf_in_fields": (get(HOST, b"A: b\nC: d\r\n"), [400], CLOSED),
    "bare_cr": (get(HOST, b"A: b\rC: d\r\n"), [400], CLOSED),
    "obs_fold": (get(HOST, b"A: b\r\n c\r\n"), [400], CLOSED),
    "obs_fold_on_first_field": (get(b" Host: gateway\r\n"), [400], CLOSED),
    "space_before_colon": (get(HOST, b"Content-Length : 0\r\n"), [400], CLOSED),
    "tab_before_colon": (get(HOST, b"Content-Length\t: 0\r\n"), [400], CLOSED),
    "no_colon": (get(HOST, b"nonsense\r\n"), [400], CLOSED),
    "known_name_without_colon": (get(HOST, b"Host\r\n"), [400], CLOSED),
    "empty_name": (get(HOST, b": value\r\n"), [400], CLOSED),
    "name_of_8_bit": (get(HOST, b"\xe9: value\r\n"), [400], CLOSED),
    "nul_in_value": (get(HOST, b"A: b\x00c\r\n"), [400], CLOSED),
    "control_in_value": (get(HOST, b"A: b\x0bc\r\n"), [400], CLOSED),
    "latin_1_in_value": (get(HOST, b"A: \xe9\r\n"), [200], KEPT),
    "spaces_around_value": (get(b"Host:  \t gateway \t\r\n"), [200], KEPT),
    "empty_value": (get(HOST, b"A:\r\n"), [200], KEPT),
    "100_fields": (get(HOST, *[b"A: b\r\n"] * 99), [200], KEPT),
    "101_fields": (get(HOST, *[b"A: b\r\n"] * 100), [400], CLOSED),
    "head_over_32_kib": (get(HOST, b"A: " + b"b" * 33_000 + b"\r\n"), [431], CLOSED),
    "endless_head": (get(HOST)[:-2] + b"A: " + b"b" * 40_000, [431], CLOSED),
    "close": (get(HOST, b"Connection: close\r\n"), [200], CLOSED),
    "close_among_others": (get(HOST, b"Connection: foo, Close\r\n"), [200], CLOSED),
    "close_in_a_second_field": (
        get(HOST, b"Connection: keep-alive\r\n", b"Connection: close\r\n"),
        [200],
        CLOSED,
    ),
    "upgrade_is_not_taken": (
        get(HOST, b"Connection: upgrade\r\nUpgrade: h2c\r\n"),
        [200],
        KEPT,
    ),
}
BODIES = {
    "length": (POST + SIZE + b"\r\n" + BODY, [200], KEPT),
    "chunked": (POST + CHUNKED + b"\r\n" + chunks(BODY), [200], KEPT),
    "many_chunks": (
        POST + CHUNKED + b"\r\n" + chunks(*[bytes([b]) for b in BODY]),
        [200],
        KEPT,
    ),
    "chunked_in_capitals": (
        POST + b"Transfer-Encoding: CHUNKED\r\n\r\n" + chunks(BODY),
        [200],
        KEPT,
    ),
    "cl_and_te": (POST + SIZE + CHUNKED + b"\r\n" + chunks(BODY), [400], CLOSED),
    "te_and_cl": (POST + CHUNKED + SIZE + b"\r\n" + chunks(BODY), [400], CLOSED),
    "two_cl": (POST + SIZE + b"Content-Length: 0\r\n\r\n" + BODY, [400], CLOSED),
    "two_cl_alike": (POST + SIZE * 2 + b"\r\n" + BODY, [400], CLOSED),
    "cl_list": (POST + b"Content-Length: 2, 2\r\n\r\n{}", [400], CLOSED),
    "cl_plus": (POST + b"Content-Length: +2\r\n\r\n{}", [400], CLOSED),
    "cl_minus": (POST + b"Content-Length: -2\r\n\r\n{}", [400], CLOSED),
    "cl_hex": (POST + b"Content-Length: 0x2\r\n\r\n{}", [400], CLOSED),
    "cl_empty": (POST + b"Content-Length:\r\n\r\n{}", [400], CLOSED),
    "cl_underscore": (POST + b"Content-Length: 1_0\r\n\r\n{}", [400], CLOSED),
    "cl_superscript": (POST + b"Content-Length: \xb2\r\n\r\n{}", [400], CLOSED),
    "cl_of_30_digits": (POST + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n", [400], CLOSED),
    "cl_over_the_limit": (POST + b"Content-Length: 8388609\r\n\r\n", [413], CLOSED),
    "no_length": (POST + b"\r\n", [400], KEPT),
    "two_te": (POST + CHUNKED * 2 + b"\r\n" + chunks(BODY), [400], CLOSED),
    "te_identity": (POST + b"Transfer-Encoding: identity\r\n\r\n", [400], CLOSED),
    "te_gzip_chunked": (
        POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + chunks(BODY),
        [400],
        CLOSED,
    ),
    "te_xchunked": (
        POST + b"Transfer-Encoding: xchunked\r\n\r\n" + chunks(BODY),
        [400],
        CLOSED,
    ),
    "te_obs_fold": (
        POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n" + chunks(BODY),
        [400],
        CLOSED,
    ),
    "te_quoted": (POST + b'Transfer-Encoding: "chunked"\r\n\r\n', [400], CLOSED),
    "te_in_http_1_0": (
        POST.replace(b"HTTP/1.1", b"HTTP/1.0") + CHUNKED + b"\r\n" + chunks(BODY),
        [400],
        CLOSED,
    ),
    "chunk_extension": (
        POST + CHUNKED + b"\r\n%x;a=b\r\n%b\r\n0;c\r\n\r\n" % (len(BODY), BODY),
        [200],
        KEPT,
    ),
    "huge_chunk_extension": (
        POST + CHUNKED + b"\r\n2;" + b"a" * 5000 + b"\r\n{}\r\n0\r\n\r\n",
        [400],
        CLOSED,
    ),
    "lf_in_chunk_extension": (POST + CHUNKED + b"\r\n2;a\n{}\r\n0\r\n\r\n", [400], CLOSED),
    "chunk_size_minus": (POST + CHUNKED + b"\r\n-2\r\n{}\r\n0\r\n\r\n", [400], CLOSED),
    "chunk_size_0x": (POST + CHUNKED + b"\r\n0x2\r\n{}\r\n0\r\n\r\n", [400], CLOSED),
    "chunk_size_empty": (POST + CHUNKED + b"\r\n\r\n{}\r\n0\r\n\r\n", [400], CLOSED),
    "chunk_size_of_9_digits": (POST + CHUNKED + b"\r\n000000002\r\n{}\r\n", [400], CLOSED),
    "chunk_size_with_space": (POST + CHUNKED + b"\r\n2 \r\n{}\r\n0\r\n\r\n", [400], CLOSED),
    "chunk_size_lf": (POST + CHUNKED + b"\r\n2\n{}\n0\n\n", [400], CLOSED),
    "chunk_longer_than_it_said": (POST + CHUNKED + b"\r\n1\r\n{}\r\n0\r\n\r\n", [400], CLOSED),
    "chunk_over_the_limit": (
        POST + CHUNKED + b"\r\n%x\r\n" % (9 * 2**20) + b"x" * (8 * 2**20 + 1),
        [413],
        CLOSED,
    ),
    "trailer": (POST + CHUNKED + b"\r\n" + chunks(BODY, last=b"0\r\nA: b\r\n\r\n"), [200], KEPT),
    "trailer_that_is_no_field": (
        POST + CHUNKED + b"\r\n" + chunks(BODY, last=b"0\r\nnonsense\r\n\r\n"),
        [400],
        CLOSED,
    ),
    "huge_trailer": (
        POST + CHUNKED + b"\r\n" + chunks(BODY, last=b"0\r\nA: " + b"b" * 9000 + b"\r\n\r\n"),
        [400],
        CLOSED,
    ),
    "expect_with_body": (POST + SIZE + b"Expect: 100-continue\r\n\r\n" + BODY, [200], KEPT),
    "expect_other": (POST + SIZE + b"Expect: miracles\r\n\r\n" + BODY, [417], KEPT),
    "body_on_get": (WARM + b"Content-Length: 5\r\n\r\nhello", [200], KEPT),
    "wrong_key_with_body": (
        POST.replace(KEY.encode(), b"wb_inf_none") + SIZE + b"\r\n" + BODY,
        [401],
        KEPT,
    ),
    "wrong_key_with_long_body": (
        POST.replace(KEY.encode(), b"wb_inf_none") + b"Content-Length: 9999999\r\n\r\nabc",
        [401],
        CLOSED,
    ),
    "gzip": (
        POST
        + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(gzip.compress(BODY))
        + gzip.compress(BODY),
        [200],
        KEPT,
    ),
    "gzip_bomb": (
        POST
        + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
        % len(gzip.compress(b" " * 20_000_000))
        + gzip.compress(b" " * 20_000_000),
        [413],
        KEPT,
    ),
    "broken_msgpack": (
        POST.replace(b"json", b"vnd.msgpack") + b"Content-Length: 3\r\n\r\n\xdf\xff\xff",
        [400],
        KEPT,
    ),
}
PIPELINES = {
    "two_at_once": (get(HOST) * 2, [200, 200], KEPT),
    "sixteen_at_once": (get(HOST) * 16, [200] * 16, KEPT),
    "three_hundred_at_once": (get(HOST) * 300, [200] * 300, KEPT),
    "bodies_at_once": ((POST + SIZE + b"\r\n" + BODY) * 3, [200] * 3, KEPT),
    "chunked_bodies_at_once": ((POST + CHUNKED + b"\r\n" + chunks(BODY)) * 3, [200] * 3, KEPT),
    "in_order_of_asking": (
        POST + SIZE + b"\r\n" + BODY + get(HOST, first=b"GET /nowhere HTTP/1.1\r\n") + get(HOST),
        [200, 404, 200],
        KEPT,
    ),
    "nothing_after_close": (get(HOST, b"Connection: close\r\n") + get(HOST), [200], CLOSED),
    "nothing_after_nonsense": (get(HOST) + b"nonsense\r\n\r\n" + get(HOST), [200, 400], CLOSED),
    "the_tail_of_a_refused_body_is_no_request": (
        POST + SIZE + CHUNKED + b"\r\n0\r\n\r\n" + get(HOST),
        [400],
        CLOSED,
    ),
    "a_body_that_looks_like_a_request": (
        POST + b"Content-Length: %d\r\n\r\n" % len(get(HOST)) + get(HOST),
        [400],
        KEPT,
    ),
    "a_refused_body_that_looks_like_a_request": (
        POST.replace(KEY.encode(), b"wb_inf_none")
        + b"Content-Length: %d\r\n\r\n" % len(get(HOST))
        + get(HOST)
        + get(HOST),
        [401, 200],
        KEPT,
    ),
}
CASES = {**REQUEST_LINES, **FIELDS, **BODIES, **PIPELINES}


@dataclass(frozen=True)
class Seen:
    statuses: list[int]
    kept: bool


async def ask(port: int, sent: bytes, *, pieces: int = 1) -> Seen:
    """Send it, then a harmless request, and say what was answered and whether the second one was."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    probe = b"GET /public/v1/models HTTP/1.1\r\nHost: probe\r\n\r\n"
    statuses: list[int] = []
    try:
        async with asyncio.timeout(20):
            step = -(-len(sent) // pieces)
            for start in range(0, len(sent), step):
                writer.write(sent[start : start + step])
                await asyncio.sleep(0)
            head = b"HEAD " in sent[:5]
            while (answer := await read_answer(reader, bodyless=head)) is not None:
                status, body = answer
                if b'"list"' in body:
                    return Seen(statuses, kept=True)
                if status != 100:
                    statuses.append(status)
                if len(statuses) == 1 or head:
                    head = False
                    writer.write(probe)
    except ConnectionError:
        pass
    finally:
        writer.transport.abort()
    return Seen(statuses, kept=False)


async def read_answer(reader: asyncio.StreamReader, *, bodyless: bool) -> tuple[int, bytes] | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        return None if not error.partial else (0, error.partial)
    lines = head.decode("latin-1").lower().split("\r\n")
    status = int(lines[0].split(" ")[1])
    sizes = [int(line.split(":")[1]) for line in lines if line.startswith("content-length:")]
    return status, await reader.readexactly(0 if bodyless or not sizes else sizes[0])


def test_there_are_many_cases():
    assert len(CASES) >= 60


@pytest.mark.parametrize(("sent", "statuses", "kept"), CASES.values(), ids=CASES.keys())
async def test_a_request_has_its_answer_and_its_connection_its_fate(site, sent, statuses, kept):
    assert await ask(site.gateway.port, sent) == Seen(statuses, kept)


@pytest.mark.parametrize("name", ["chunked", "many_chunks", "trailer", "bodies_at_once", "bare_lf"])
async def test_the_cuts_of_the_network_change_nothing(site, name):
    sent, statuses, kept = CASES[name]
    assert await ask(site.gateway.port, sent, pieces=97) == Seen(statuses, kept)


@pytest.mark.parametrize("name", ["cl_and_te", "http_2_preface", "long_target", "head_over_32_kib"])
async def test_a_refusal_says_what_is_wrong_and_that_it_closes(site, name):
    reader, writer = await asyncio.open_connection("127.0.0.1", site.gateway.port)
    writer.write(CASES[name][0])
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in head
    assert b"x-request-id: " in head
    assert set(json.loads(body)) == {"message", "type", "param", "code"}


async def test_a_caller_that_waits_for_continue_is_told_to_go_on(site):
    reader, writer = await asyncio.open_connection("127.0.0.1", site.gateway.port)
    writer.write(POST + SIZE + b"Expect: 100-continue\r\n\r\n")
    async with asyncio.timeout(10):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(BODY)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
    writer.close()


async def test_a_caller_without_a_key_is_not_told_to_go_on(site):
    reader, writer = await asyncio.open_connection("127.0.0.1", site.gateway.port)
    writer.write(POST.replace(AUTH, b"") + SIZE + b"Expect: 100-continue\r\n\r\n")
    async with asyncio.timeout(10):
        assert (await reader.readline()).startswith(b"HTTP/1.1 403 ")
    writer.close()
