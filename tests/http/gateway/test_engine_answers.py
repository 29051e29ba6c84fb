"""Engines that answer in every wrong way HTTP allows: another replica is asked, or the fault shows; nothing hangs."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


class RawEngine:
    """Sends these bytes for each request, `{name}` replaced; then closes, unless it is to be kept."""

    def __init__(self, name: str, answer: bytes, *, keep: bool) -> None:
        self.answer = answer.replace(b"{name}", name.encode())
        self.keep = keep
        self.asked = self.connections = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                size = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                await reader.readexactly(int(size))
                self.asked += 1
                writer.write(self.answer)
                await writer.drain()
                if not self.keep:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def raw(site, answer: bytes, *, keep: bool = False) -> AsyncIterator[RawEngine]:
    """Route the endpoint to such an engine alone."""
    engine = RawEngine(site.engines[0].served_name, answer, keep=keep)
    server = await asyncio.start_server(engine, "127.0.0.1", 0)
    async with server:
        site.urls[0] = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await site.route(0)
        yield engine


def whole() -> bytes:
    return (
        b'{"model":"{name}","choices":[{"index":0,"finish_reason":"stop",'
        b'"message":{"role":"assistant","content":"hello"}}]}'
    )


def sized(name: str, *lines: bytes) -> bytes:
    body = whole().replace(b"{name}", name.encode())
    return HEAD + b"".join(lines) + b"Content-Length: %d\r\n\r\n" % len(body) + body


def events() -> bytes:
    def event(choice: str) -> bytes:
        return b'data: {"model":"{name}","choices":[%b]}\n\n' % choice.encode()

    return (
        event('{"index":0,"delta":{"content":"hel"}}')
        + event('{"index":0,"delta":{"content":"lo"}}')
        + event('{"index":0,"delta":{},"finish_reason":"stop"}')
        + b"data: [DONE]\n\n"
    )


def in_chunks(data: bytes, size: int) -> bytes:
    parts = [data[start : start + size] for start in range(0, len(data), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


GOOD = {
    "length": sized,
    "interim_answers": lambda name: (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + sized(name)
    ),
    "close_delimited": lambda name: HEAD + b"\r\n" + whole(),
    "http_1_0": lambda name: HEAD.replace(b"1.1", b"1.0") + b"\r\n" + whole(),
    "status_without_reason": lambda name: sized(name).replace(b"200 OK", b"200"),
    "surplus_after_the_end": lambda name: sized(name) + b"HTTP/1.1 200 OK\r\n\r\n",
    "odd_fields": lambda name: sized(name, b"X: \xe9\r\n", b"Y:\r\n", b"Connection: close\r\n"),
}
BAD = {
    "nothing": b"",
    "half_a_head": HEAD,
    "not_http": b"SSH-2.0-OpenSSH_9.9\r\n\r\n",
    "bare_lf": HEAD.replace(b"\r", b"") + b"\n{}",
    "obs_fold": HEAD + b"A: b\r\n c\r\nContent-Length: 2\r\n\r\n{}",
    "cl_and_te": HEAD
    + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "two_cl": HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "te_gzip": HEAD + b"Transfer-Encoding: gzip\r\n\r\n{}",
    "bad_chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    "cut_chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n20\r\n{}",
    "short_body": HEAD + b"Content-Length: 200\r\n\r\n{}",
    "switching_protocols": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "endless_interim_answers": b"HTTP/1.1 100 Continue\r\n\r\n" * 50,
    "flood_of_fields": HEAD + b"A: b\r\n" * 500 + b"\r\n",
    "endless_head": HEAD + b"A: " + b"b" * 100_000,
    "status_999": b"HTTP/1.1 999 What\r\nContent-Length: 0\r\n\r\n",
    "redirect": b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n",
    "no_content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "empty_object": HEAD + b"Content-Length: 2\r\n\r\n{}",
    "not_utf_8": HEAD + b'Content-Length: 15\r\n\r\n{"model":"\xff\xff\xff"}',
    "gzip_unasked": HEAD + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00",
}


@pytest.mark.parametrize("make", GOOD.values(), ids=GOOD.keys())
async def test_an_answer_in_any_right_form_arrives(site, make):
    async with raw(site, make(site.engines[0].served_name)) as engine:
        for _ in range(2):
            answer, text = await site.chat()
            assert answer.status == 200
            assert json.loads(text)["choices"][0]["message"]["content"] == "hello"
        assert engine.asked == 2


@pytest.mark.parametrize("answer", BAD.values(), ids=BAD.keys())
async def test_a_wrong_answer_is_the_replica_s_failure_and_asked_for_once(site, answer):
    async with raw(site, answer) as engine:
        refused, text = await site.chat()
        assert refused.status == 503
        assert json.loads(text)["code"] == "replicas_failed"
        assert engine.asked == 1
        assert site.gateway.view.in_flight(0) == 0


@pytest.mark.parametrize("size", [1, 7, 64, 100_000])
async def test_a_stream_arrives_whole_however_its_chunks_are_cut(site, size):
    name = site.engines[0].served_name.encode()
    data = events().replace(b"{name}", name)
    head = EVENTS + b"Transfer-Encoding: chunked\r\n\r\n"
    async with raw(site, head + in_chunks(data, size), keep=True) as engine:
        for _ in range(3):
            answer, text = await site.chat(stream=True)
            assert answer.status == 200
            assert text.endswith("data: [DONE]\n\n")
            assert '"hel"' in text
            assert '"lo"' in text
        assert (engine.asked, engine.connections) == (3, 1)


async def test_a_stream_that_ends_with_its_connection_is_whole(site):
    async with raw(site, EVENTS + b"\r\n" + events()):
        answer, text = await site.chat(stream=True)
        assert answer.status == 200
        assert text.endswith("data: [DONE]\n\n")


async def test_a_whole_answer_where_a_stream_was_asked_is_the_replica_s_failure(site):
    async with raw(site, sized(site.engines[0].served_name)):
        answer, _ = await site.chat(stream=True)
        assert answer.status == 503


async def test_a_connection_with_bytes_nobody_asked_for_is_not_used_again(site):
    late = sized(site.engines[0].served_name)
    async with raw(site, late + b"HTTP/1.1 200 OK\r\n", keep=True) as engine:
        for _ in range(3):
            assert (await site.chat())[0].status == 200
        assert (engine.asked, engine.connections) == (3, 3)


async def test_connections_to_a_replica_are_used_again(site):
    async with raw(site, sized(site.engines[0].served_name), keep=True) as engine:
        for _ in range(5):
            assert (await site.chat())[0].status == 200
        assert (engine.asked, engine.connections) == (5, 1)


async def test_an_idle_connection_is_closed_before_the_engine_would(site):
    async with raw(site, sized(site.engines[0].served_name), keep=True) as engine:
        await site.chat()
        await asyncio.sleep(4.5)  # beyond the pool's own limit of 4 s
        await site.chat()
        assert engine.connections == 2
