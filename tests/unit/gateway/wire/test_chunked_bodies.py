"""Chunked bodies: what is written in one chunk is read in one step, and all other forms read the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighbridge.gateway.wire.framing import ChunkedBody, chunk
from weighbridge.gateway.wire.heads import MalformedError

SIZES = (*range(1, 20), 255, 256, 4079, 4087, 4088, 4089, 4090, 4091, 4095, 4096, 4097, 65_536)
ONE_STEP_BYTES_MAX = 4088
"""With its size and line ends it is shorter than 4 KiB."""
SIZE_FORMS = ("%x", "%X", "%03x", "%x;name=value", "%x ;a")
LAST = b"0\r\n\r\n"


def read(pieces: list[bytes]) -> bytes:
    """The whole body, of which nothing may be left."""
    body = ChunkedBody()
    found = b"".join(body.feed(piece) for piece in pieces)
    assert (body.done, body.rest) == (True, b"")
    return found


@pytest.mark.parametrize("size", SIZES)
def test_a_chunk_of_any_size_is_read_as_it_was_written(size):
    data = bytes(number % 251 for number in range(size))
    assert chunk(data) == b"%x\r\n" % size + data + b"\r\n"
    assert ChunkedBody().feed(chunk(data)) == data
    assert ChunkedBody().feed_one(chunk(data)) == (data if size <= ONE_STEP_BYTES_MAX else b"")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("wrong", [b"", b"\r", b"\n\r", b"xx", b"\r\n0", b"\r\nx"])
def test_what_is_no_single_chunk_is_never_taken_for_one(size, wrong):
    assert ChunkedBody().feed_one(b"%x\r\n" % size + b"a" * size + wrong) == b""


@given(
    st.lists(st.tuples(st.binary(min_size=1, max_size=300), st.sampled_from(SIZE_FORMS))),
    st.lists(st.integers(0, 4000), max_size=8),
)
def test_a_body_reads_the_same_however_its_sizes_are_written_and_it_is_cut(chunks, places):
    sent = b"".join((form % len(data)).encode() + b"\r\n" + data + b"\r\n" for data, form in chunks)
    sent += LAST
    ends = sorted(place for place in places if place < len(sent))
    pieces = [sent[start:end] for start, end in zip([0, *ends], [*ends, len(sent)], strict=True)]
    assert read(pieces) == b"".join(data for data, _ in chunks)


def test_the_end_of_a_body_is_no_chunk():
    assert ChunkedBody().feed_one(LAST) == b""


@pytest.mark.parametrize("line", [b"", b"-1", b"0x1", b"g", b"123456789", b" 1"])
def test_a_size_that_is_no_number_is_refused(line):
    with pytest.raises(MalformedError):
        ChunkedBody().feed(line + b"\r\na\r\n")


@pytest.mark.parametrize("before", [b"", b"1\r\na\r\n", b"0\r\n"])
def test_a_line_of_a_line_feed_alone_is_refused(before):
    with pytest.raises(MalformedError, match="does not end with CR LF"):
        ChunkedBody().feed(before + b"\n47;a=b\r\n")
