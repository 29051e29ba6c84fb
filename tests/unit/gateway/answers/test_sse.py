"""The event parser gives the same events however the network cuts the bytes."""

from itertools import chain, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighbridge.errors import UnavailableError
from weighbridge.gateway.answers.sse import SseEvent, SseParser

LINES = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=20)
ENDS = st.sampled_from(["\n", "\r\n", "\r"])
NOISE = st.sampled_from(["", ": keep-alive", "id: 7", "retry: 10", "unknown", ":"])


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[SseEvent]]:
    """A stream's bytes and the events it holds: noise lines, several data lines, mixed line ends."""
    end = draw(ENDS)
    text, events = "", []
    for _ in range(draw(st.integers(0, 5))):
        data = draw(st.lists(LINES, max_size=3))
        name = draw(st.sampled_from(["", "error", "ping"]))
        noise = draw(NOISE)
        lines = [f"data: {line}" for line in data] + ([f"event: {name}"] if name else [])
        lines += [noise] if noise else []
        text += "".join(line + end for line in lines) + end
        if data:
            events.append(SseEvent("\n".join(data).encode(), name.encode()))
    return text.encode(), events


def cut(text: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[start:stop] for start, stop in pairwise(edges)]


def parse(pieces: list[bytes]) -> list[SseEvent]:
    parser = SseParser()
    return [event for piece in pieces for event in parser.feed(piece)]


@given(streams(), st.lists(st.integers(0, 10_000), max_size=12))
def test_events_do_not_depend_on_where_the_bytes_are_cut(stream, places):
    text, events = stream
    assert parse(cut(text, places)) == events


@given(streams())
def test_events_are_the_same_byte_by_byte(stream):
    text, events = stream
    assert parse([text[index : index + 1] for index in range(len(text))]) == events


@given(st.lists(st.binary(max_size=50), max_size=10))
def test_any_bytes_are_taken_without_a_fault(pieces):
    parse(pieces)


def test_an_event_without_its_empty_line_is_not_an_event():
    assert parse([b"data: half"]) == []
    assert parse([b"data: half\n"]) == []


def test_a_value_keeps_all_but_its_first_space():
    assert parse([b"data:  x \n\n"]) == [SseEvent(b" x ")]
    assert parse([b"data:x\n\n"]) == [SseEvent(b"x")]


def test_an_error_field_is_an_event_of_that_name():
    assert parse([b'error: {"code":500}\n\n']) == [SseEvent(b'{"code":500}', b"error")]


@pytest.mark.parametrize("piece", [b"x" * 40, b"data: xx\n"])
def test_an_event_over_the_limit_is_refused_while_it_arrives(piece):
    parser = SseParser(event_bytes_max=100)
    with pytest.raises(UnavailableError, match="more than 100 bytes"):
        list(chain.from_iterable(map(parser.feed, [piece] * 20)))


def test_the_limit_counts_each_event_anew():
    parser = SseParser(event_bytes_max=100)
    for _ in range(50):
        assert list(parser.feed(b"data: " + b"x" * 60 + b"\n\n"))
