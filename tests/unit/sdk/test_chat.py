import json

import httpx
import pytest

from weighbridge.sdk import AuthenticationError, Client, StreamError

PATH = "/v1/chat/completions"
ASK = [{"role": "user", "content": "hi"}]


def chunk(content=None, finish=None, fingerprint="fp_1-v1"):
    delta = {} if content is None else {"content": content}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return json.dumps({"id": "c", "choices": [choice], "system_fingerprint": fingerprint})


def read(client):
    with client.chat.stream("e", ASK) as stream:
        texts = [item.text for item in stream]
    return stream, texts


def test_a_stream_is_read_to_its_end(server, events):
    server.on(
        "POST", PATH, events([chunk("Hel"), chunk("lo"), chunk(finish="stop"), "[DONE]", "junk"])
    )
    with server.client() as client:
        stream, texts = read(client)
    assert stream.text == "".join(texts) == "Hello"
    assert stream.marked_done
    assert stream.finish_reason == "stop"
    assert stream.fingerprints == {"fp_1-v1"}
    assert json.loads(server.requests[0].content) == {
        "model": "e",
        "messages": ASK,
        "stream": True,
    }


def test_a_finished_stream_needs_no_mark(server, events):
    server.on("POST", PATH, events([chunk("Hello"), chunk(finish="length")]))
    with server.client() as client:
        stream, _ = read(client)
    assert stream.text == "Hello"
    assert not stream.marked_done


def test_a_stream_that_breaks_off_is_an_error_that_keeps_the_text(server, events):
    server.on("POST", PATH, events([chunk("Hel"), chunk("lo")]))
    with server.client() as client, pytest.raises(StreamError, match="before the answer") as caught:
        read(client)
    assert caught.value.text == "Hello"


def test_an_error_inside_a_stream_is_raised_with_its_status(server, events):
    error = {"error": {"message": "replica lost", "code": "lost"}, "status_code": 503}
    server.on("POST", PATH, events([chunk("Hel"), json.dumps(error)]))
    with server.client() as client, pytest.raises(StreamError, match="replica lost") as caught:
        read(client)
    assert (caught.value.status, caught.value.code) == (503, "lost")


def test_comments_between_events_are_skipped(server):
    body = f": hold\n\ndata: {chunk('Hi', 'stop')}\n\n: hold\n\ndata: [DONE]\n\n"
    server.on("POST", PATH, httpx.Response(200, text=body))
    with server.client() as client:
        assert read(client)[0].text == "Hi"


def test_a_refused_stream_is_an_ordinary_error_and_is_not_repeated(server):
    server.on("POST", PATH, (401, {"message": "Wrong API Key", "code": "wrong_api_key"}))
    with server.client() as client, pytest.raises(AuthenticationError, match="Wrong API Key"):
        read(client)
    assert len(server.requests) == 1


def test_a_connection_lost_in_a_stream_is_a_broken_stream():
    class Cut(httpx.SyncByteStream):
        def __iter__(self):
            yield f"data: {chunk('Hel')}\n\n".encode()
            raise httpx.ReadError("reset")

    def handler(request):
        return httpx.Response(200, stream=Cut())

    client = Client(
        "http://server.test", inference_key="wb_inf_k", http_transport=httpx.MockTransport(handler)
    )
    with client, pytest.raises(StreamError, match="broke off") as caught:
        read(client)
    assert caught.value.text == "Hel"


def test_a_whole_answer_is_read(server):
    answer = {
        "choices": [
            {"message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
        ],
        "system_fingerprint": "fp_1-v1",
    }
    server.on("POST", PATH, (503, {}), answer)
    with server.client() as client:
        found = client.chat.create("e", ASK, temperature=0)
    assert (found.text, found.finish_reason, found.system_fingerprint) == (
        "Hello",
        "stop",
        "fp_1-v1",
    )
