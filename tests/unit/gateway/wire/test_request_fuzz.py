"""Requests of any bytes: read as h11 reads them or refused, and the same however they were cut."""

import re
from itertools import pairwise
from pathlib import Path

import h11
from client_wire import BODY_BYTES_MAX, Wire
from hypothesis import given, settings
from hypothesis import strategies as st

CORPUS = [path.read_bytes() for path in sorted(Path(__file__).parents[3].glob("corpus/gateway/*"))]
PIECES = (
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b" ", b"\t", b":", b",", b"0", b"1", b"a", b"\x00", b"\xff", b";",
    b"0\r\n\r\n", b"Content-Length: 3\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Host: y\r\n", b"Connection: close\r\n", b"Expect: 100-continue\r\n", b"GET /x HTTP/1.1\r\n",
    b"HTTP/1.0", b" HTTP/1.1", b"+", b"-", b"0x",
)  # fmt: skip


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """One to three requests of the corpus, with a few pieces put in, taken out or doubled."""
    data = b"".join(draw(st.lists(st.sampled_from(CORPUS), min_size=1, max_size=3)))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        stop = min(len(data), start + draw(st.sampled_from([0, 0, 1, 2, 10, 40])))
        new = draw(st.one_of(st.sampled_from(PIECES), st.just(b""), st.just(data[start:stop] * 2)))
        data = data[:start] + new + data[stop:]
    return data


def read_by_h11(data: bytes) -> tuple[str, str, bytes] | None:
    """Method, target and body of the first request; None when it is refused or not whole."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(data)
    head, body = None, b""
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return head.method.decode(), head.target.decode(), body
            else:
                return None
    except h11.RemoteProtocolError:
        return None


def test_the_corpus_is_there():
    assert len(CORPUS) >= 60


@settings(max_examples=500, deadline=None)
@given(requests())
def test_what_is_taken_is_what_h11_reads(data):
    wire = Wire()
    wire.receive(data)
    if wire.asked and not wire.visits[0].refused:
        # h11 does not read over an empty line before a request; RFC 9112 (2.2) asks for it.
        assert wire.asked[0] == read_by_h11(data.removeprefix(b"\r\n"))
    for _, _, body in wire.asked:
        assert len(body) <= BODY_BYTES_MAX


@settings(max_examples=300, deadline=None)
@given(requests(), st.lists(st.integers(0, 2000), max_size=12))
def test_the_cuts_of_the_network_change_neither_requests_nor_answers(data, places):
    whole, cut = Wire(), Wire()
    whole.receive(data)
    edges = [0, *sorted(min(place, len(data)) for place in places), len(data)]
    for start, stop in pairwise(edges):
        if start < stop:
            cut.receive(data[start:stop])
    assert cut.asked == whole.asked
    assert [visit.refused for visit in cut.visits] == [visit.refused for visit in whole.visits]
    assert answers(cut) == answers(whole)
    assert (cut.transport.closed or cut.transport.ended) == (
        whole.transport.closed or whole.transport.ended
    )


def answers(wire: Wire) -> bytes:
    # Whether a body was on its way already decides if the caller is told to go on; a second may pass in between.
    sent = wire.transport.sent.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
    return re.sub(rb"\r\ndate: [^\r]*", b"", sent)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_at_all_are_survived(data):
    wire = Wire()
    wire.receive(data)
    # A refusal first, then the end of the wait for the caller to close.
    wire.wait(1000)
    wire.wait(1000)
    assert wire.transport.closed
