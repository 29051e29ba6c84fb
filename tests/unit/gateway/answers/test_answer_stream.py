"""An engine's stream becomes the caller's: our identity, usage on the finish chunk, one clear end."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighbridge.errors import UnavailableError
from weighbridge.gateway.answers.rendering import AnswerIdentity, Elapsed, WrongIdentityError
from weighbridge.gateway.answers.stream import AnswerStream

ELAPSED = Elapsed(first_s=0.5, total_s=2.0)
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}}


def identity(**changes: object) -> AnswerIdentity:
    values: dict = {
        "answer_id": "chatcmpl-1",
        "is_chat": True,
        "endpoint_id": "acme-tiny",
        "fingerprint": "fp_1",
        "served_name": "r1.abc",
        "created_unix_s": 1000.25,
        **changes,
    }
    return AnswerIdentity(**values)


def chunk(*choices: dict, **members: object) -> bytes:
    values = {"model": "r1.abc", "id": "x", "object": "o", "choices": choices, **members}
    return b"data: " + json.dumps(values).encode() + b"\n\n"


def delta(content: str | None = None, index: int = 0, finish: str | None = None, **more: object):
    return {"index": index, "finish_reason": finish, "delta": {"content": content, **more}}


DONE = b"data: [DONE]\n\n"
WHOLE = (
    chunk(delta(role="assistant"))
    + chunk(delta("Hé"))
    + chunk(delta("llo"))
    + chunk(delta(finish="stop"))
    + chunk(usage=USAGE, timings={"prompt_ms": 250.0, "predicted_ms": 750.0})
    + DONE
)


def frames(text: bytes) -> list:
    lines = text.decode().split("\n\n")
    assert lines.pop() == ""
    parts = [line.removeprefix("data: ") for line in lines]
    return [part if part == "[DONE]" else json.loads(part) for part in parts]


def test_a_chat_stream_is_rewritten_as_the_api_has_it():
    answer = AnswerStream(identity())
    role, first, second, last, done = frames(answer.feed(WHOLE, ELAPSED))
    assert answer.complete
    assert done == "[DONE]"
    assert role["choices"] == [{"delta": {"role": "assistant"}, "index": 0}]
    assert first["choices"] == [{"delta": {"content": "Hé"}, "index": 0}]
    assert second == {
        "id": "chatcmpl-1",
        "choices": [{"delta": {"content": "llo"}, "index": 0}],
        "created": 1000,
        "model": "acme-tiny",
        "system_fingerprint": "fp_1",
        "object": "chat.completion.chunk",
    }
    assert last["choices"] == [{"delta": {}, "index": 0, "finish_reason": "stop"}]
    assert last["usage"]["total_tokens"] == 5
    assert last["usage"]["prompt_tokens_details"] == {"cached_tokens": 1}
    assert last["time_info"] == {
        "queue_time": 1.0,
        "prompt_time": 0.25,
        "completion_time": 0.75,
        "total_time": 2.0,
        "created": 1000.25,
    }


@given(st.lists(st.integers(0, len(WHOLE)), max_size=20))
def test_the_caller_gets_the_same_bytes_however_the_engine_s_are_cut(places):
    edges = [0, *sorted(places), len(WHOLE)]
    answer = AnswerStream(identity())
    pieces = [WHOLE[start:stop] for start, stop in pairwise(edges)]
    got = b"".join(answer.feed(piece, ELAPSED) for piece in pieces)
    assert got == AnswerStream(identity()).feed(WHOLE, ELAPSED)


@given(st.integers(0, len(WHOLE)))
def test_a_stream_that_ends_anywhere_is_whole_or_an_error(place):
    """Never a silent end (G2): what ends without its finish reason raises."""
    answer = AnswerStream(identity())
    got = answer.feed(WHOLE[:place], ELAPSED)
    try:
        got += answer.end(ELAPSED)
    except UnavailableError:
        assert b'"finish_reason":"stop"}' not in WHOLE[:place].replace(b" ", b"")
        assert b"[DONE]" not in got
    else:
        assert got.endswith(DONE)
        assert frames(got)[-2]["choices"][0]["finish_reason"] == "stop"


def test_what_comes_after_the_end_is_dropped():
    answer = AnswerStream(identity())
    got = answer.feed(WHOLE + chunk(delta("more")) + DONE, ELAPSED)
    assert got.count(DONE) == 1
    assert b"more" not in got
    assert answer.end(ELAPSED) == b""


def test_done_without_a_finish_reason_is_a_cut():
    answer = AnswerStream(identity())
    with pytest.raises(UnavailableError, match="ended the answer early"):
        answer.feed(chunk(delta("Hel")) + DONE, ELAPSED)


def test_another_replica_s_name_is_refused_before_any_frame():
    answer = AnswerStream(identity(served_name="r2.def"))
    with pytest.raises(WrongIdentityError):
        answer.feed(WHOLE, ELAPSED)


def test_a_fingerprint_that_changes_half_way_cuts_the_stream():
    answer = AnswerStream(identity())
    answer.feed(chunk(delta("a"), system_fingerprint="b1"), ELAPSED)
    with pytest.raises(WrongIdentityError, match="fingerprint"):
        answer.feed(chunk(delta("b"), system_fingerprint="b2"), ELAPSED)


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"error":{"message":"r1.abc ran out of memory","code":500}}\n\n',
        b'error: {"code":500,"message":"slot"}\n\n',
        b'event: error\ndata: {"message":"slot"}\n\n',
        b"data: <html>\n\n",
        b'data: {"choices":[{"index":"zero"}],"model":"r1.abc"}\n\n',
        b"data: []\n\n",
    ],
)
def test_an_engine_s_error_inside_the_stream_raises_without_its_words(event):
    answer = AnswerStream(identity())
    with pytest.raises(UnavailableError) as raised:
        answer.feed(event, ELAPSED)
    assert raised.value.code == "engine_failed"
    assert "r1.abc" not in raised.value.message


def test_content_on_the_finish_chunk_is_not_lost():
    answer = AnswerStream(identity())
    got = frames(answer.feed(chunk(delta("end", finish="length")) + DONE, ELAPSED))
    assert [part["choices"][0]["delta"] for part in got[:-1]] == [{"content": "end"}, {}]
    assert got[1]["choices"][0]["finish_reason"] == "length"
    assert "usage" not in got[1]


def test_each_choice_finishes_and_usage_comes_once():
    answer = AnswerStream(identity())
    answer.feed(chunk(delta("a")) + chunk(delta("b", index=1)), ELAPSED)
    answer.feed(chunk(delta(finish="stop")), ELAPSED)
    assert not answer.finished
    last = chunk(delta(index=1, finish="length")) + chunk(usage=USAGE) + DONE
    first, second, done = frames(answer.feed(last, ELAPSED))
    assert (first["choices"][0]["finish_reason"], "usage" in first) == ("stop", False)
    assert (second["choices"][0]["finish_reason"], "usage" in second) == ("length", True)
    assert done == "[DONE]"


def test_a_tool_call_arrives_whole_in_one_delta():
    def part(**call: object) -> bytes:
        return chunk(delta(tool_calls=[{"index": 0, **call}]))

    answer = AnswerStream(identity())
    text = (
        part(id="c1", type="function", function={"name": "weigh", "arguments": '{"a"'})
        + part(function={"arguments": ":1}"})
        + chunk(delta(finish="tool_calls"))
        + DONE
    )
    call, last, _ = frames(answer.feed(text, ELAPSED))
    assert call["choices"][0]["delta"] == {
        "tool_calls": [
            {
                "function": {"name": "weigh", "arguments": '{"a":1}'},
                "type": "function",
                "id": "c1",
                "index": 0,
            }
        ]
    }
    assert last["choices"][0]["finish_reason"] == "tool_calls"


def test_reasoning_has_the_api_s_name():
    answer = AnswerStream(identity())
    (got,) = frames(answer.feed(chunk(delta(reasoning_content="hm")), ELAPSED))
    assert got["choices"][0]["delta"] == {"reasoning": "hm"}


def test_text_logprobs_count_offsets_over_the_stream():
    def part(text: str) -> bytes:
        top = [{"token": text, "logprob": -0.1}, {"token": "z", "logprob": -3.0}]
        entry = {"id": 5, "token": text, "logprob": -0.1, "top_logprobs": top}
        return chunk({"index": 0, "text": text, "logprobs": {"content": [entry]}})

    answer = AnswerStream(identity(is_chat=False, top_logprobs=2))
    first, second = frames(answer.feed(part("ab") + part("cde"), ELAPSED))
    assert first["choices"][0]["logprobs"]["text_offset"] == [0]
    assert second["choices"][0] == {
        "index": 0,
        "text": "cde",
        "logprobs": {
            "text_offset": [2],
            "token_logprobs": [-0.1],
            "tokens": ["cde"],
            "top_logprobs": [{"cde": -0.1, "z": -3.0}],
        },
    }


TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
SHAPES = st.sampled_from(
    [
        lambda text: chunk(delta(text)),
        lambda text: chunk(delta(text), created=2),
        lambda text: chunk(delta(text, index=1)),
        lambda text: chunk(delta(None, reasoning_content=text)),
        lambda text: chunk(delta(text, reasoning=text)),
        lambda text: chunk(delta(text), delta(text, index=1)),
        lambda text: chunk(delta(text), usage=USAGE),
        lambda text: chunk({**delta(text), "logprobs": {"content": []}}),
        lambda text: chunk(delta(text, finish="stop" if text else None)),
        lambda text: chunk(delta(text)).replace(b'": ', b'":'),
        lambda text: chunk(delta(text)).replace(b"\n", b"\r\n"),
        lambda text: chunk(delta(text), system_fingerprint="b1"),
        lambda text: chunk(delta(text)).replace(b"r1.abc", b"r2.abc"),
        lambda text: b": " + json.dumps(text).encode() + b"\n\n",
        lambda _text: chunk(delta("a")).replace(b'"a"', b'"a\\q"'),
        lambda _text: chunk(delta("a")).replace(b'"a"', b'"a\x01"'),
        lambda _text: chunk(delta("a")).replace(b'"a"', b'"\xff"'),
        lambda _text: chunk(delta("a")).replace(b'"a"', b'"a","content":"b"'),
    ]
)


@given(st.lists(st.tuples(SHAPES, TEXTS, st.integers(1, 6)), max_size=12))
def test_events_known_by_their_bytes_are_answered_as_those_read_in_full(parts):
    """Two streams get the same events; one gets each in two reads, so that it can recognise none."""
    events = [shape(text) for shape, text, times in parts for _ in range(times)]
    quick, full = AnswerStream(identity()), AnswerStream(identity())
    for event in events:
        try:
            expected = full.feed(event[:3], ELAPSED) + full.feed(event[3:], ELAPSED)
        except UnavailableError as error:
            with pytest.raises(UnavailableError, match=error.message):
                quick.feed(event, ELAPSED)
            return
        assert quick.feed(event, ELAPSED) == expected
        assert (quick.events, quick.chunks) == (full.events, full.chunks)
        assert quick.finished == full.finished


@pytest.mark.parametrize(
    "beginning", [delta(), delta(""), delta(tool_calls=[{"index": 0, "function": {}}])]
)
def test_a_beginning_without_text_does_not_keep_the_texts_after_it_from_being_recognised(beginning):
    answer = AnswerStream(identity())
    answer.feed(chunk(delta(role="assistant")), ELAPSED)
    for _ in range(10):
        answer.feed(chunk(beginning), ELAPSED)
    for _ in range(10):
        answer.feed(chunk(delta("word")), ELAPSED)
    assert answer.repeated.framed == 10


def test_the_frames_before_a_fault_are_not_lost():
    answer = AnswerStream(identity())
    with pytest.raises(UnavailableError):
        answer.feed(chunk(delta("Hel")) + chunk(delta("lo")) + b"data: nonsense\n\n", ELAPSED)
    assert [part["choices"][0]["delta"]["content"] for part in frames(answer.unsent)] == [
        "Hel",
        "lo",
    ]
