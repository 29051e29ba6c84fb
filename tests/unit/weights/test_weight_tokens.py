"""Tokens and requests of the weight server: what opens a version, and what is no request."""

import string

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from weighbridge.errors import InvalidError, UnauthenticatedError
from weighbridge.weights.served.requests import (
    RangeError,
    parse_head,
    parse_range,
    parse_target,
)
from weighbridge.weights.served.tokens import (
    TOKEN_S,
    check_token,
    token_expiry_s,
    weights_token,
)

PEPPER = b"pepper"
digests = st.text("0123456789abcdef", min_size=64, max_size=64)
times = st.integers(1, 10**11)


def refusal(token: str, digest: str, now_s: float, pepper: bytes = PEPPER) -> str:
    with pytest.raises(UnauthenticatedError) as refused:
        check_token(pepper, token, digest, now_s)
    return refused.value.code


@given(digests, times)
def test_a_token_opens_its_version_until_it_expires_and_not_a_moment_longer(digest, expires):
    token = weights_token(PEPPER, digest, expires)
    check_token(PEPPER, token, digest, expires - 1)
    assert refusal(token, digest, expires) == "weights_token_expired"


@given(digests, digests, times)
def test_a_token_opens_no_other_version_and_none_of_another_server(digest, other, expires):
    assume(digest != other)
    token = weights_token(PEPPER, digest, expires)
    assert refusal(token, other, expires - 1) == "weights_token_wrong"
    assert refusal(token, digest, expires - 1, b"another") == "weights_token_wrong"


@given(digests, times, st.data())
def test_a_token_with_any_character_changed_opens_nothing(digest, expires, data):
    token = weights_token(PEPPER, digest, expires)
    at = data.draw(st.integers(0, len(token) - 1))
    letter = data.draw(st.sampled_from(string.printable))
    assume(letter != token[at])
    changed = token[:at] + letter + token[at + 1 :]
    assert refusal(changed, digest, 0) == "weights_token_wrong"


@given(st.text(max_size=300), digests)
def test_any_other_text_is_refused_and_raises_nothing_else(text, digest):
    assert refusal(text, digest, 0) == "weights_token_wrong"


def test_a_token_lasts_longer_for_more_bytes():
    assert token_expiry_s(1000, 0) == 1000 + TOKEN_S
    assert token_expiry_s(1000, 500 * 10**9) == 1000 + TOKEN_S + 25_000


@given(st.integers(1, 10**15), st.integers(0, 10**15), st.integers(0, 10**15))
def test_a_range_within_the_object_is_what_was_asked_for(size, first, length):
    first %= size
    last = first + length
    assert parse_range(f"bytes={first}-{last}", size) == (first, min(size, last + 1))
    assert parse_range(f"bytes={first}-", size) == (first, size)


@given(st.integers(1, 10**15), st.integers(1, 10**15))
def test_a_range_from_the_end_begins_at_the_start_at_the_earliest(size, suffix):
    assert parse_range(f"bytes=-{suffix}", size) == (max(0, size - suffix), size)


@given(st.integers(0, 10**15), st.integers(0, 10**6))
def test_a_range_beyond_the_object_cannot_be_satisfied(size, more):
    with pytest.raises(RangeError) as refused:
        parse_range(f"bytes={size + more}-{size + more + 5}", size)
    assert refused.value.size == size


@given(st.text("bytes=0123456789-, ;", max_size=40), st.integers(0, 1000))
def test_whatever_a_range_says_the_answer_lies_within_the_object(text, size):
    try:
        found = parse_range(text, size)
    except RangeError:
        return
    assert found is not None
    assert 0 <= found[0] < found[1] <= size


@pytest.mark.parametrize(
    "text", ["bytes=0-1,3-4", "bytes=5-4", "bytes=-0", "bytes=-", "chars=0-1", "", "bytes=٣-٤"]
)
def test_what_is_no_single_range_is_refused(text):
    with pytest.raises(RangeError):
        parse_range(text, 100)


@given(st.binary(max_size=400))
def test_any_bytes_are_a_request_or_refused(head):
    try:
        request = parse_head(head)
    except InvalidError:
        return
    assert request.path.startswith("/")


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.0",
        b"GET  / HTTP/1.1",
        b"GET http://x/ HTTP/1.1",
        b"GET / HTTP/1.1\r\nA b: c",
        b"GET / HTTP/1.1\r\nA : c",
        b"GET / HTTP/1.1\r\n folded: c",
        b"GET / HTTP/1.1\r\nRange: a\r\nrange: b",
        b"GET / HTTP/1.1\nHost: x",
        b"GET / HTTP/1.1\r\nContent-Length: 5",
        b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked",
        b"GET / HTTP/1.1\r\nX: \x00",
        b"GET /\xff HTTP/1.1",
        b"GET / HTTP/1.1" + b"".join(b"\r\nx%d: y" % n for n in range(33)),
    ],
)
def test_a_head_that_could_be_read_in_two_ways_is_refused(head):
    with pytest.raises(InvalidError):
        parse_head(head)


@given(st.text("/v1ersionblobsmanifest0123abcdef.%", max_size=200))
def test_a_path_names_a_version_or_nothing(path):
    target = parse_target(path)
    assert target is None or len(target.version) == 64


def test_a_path_of_ours_is_understood():
    version, blob = "a" * 64, "b" * 64
    found = parse_target(f"/v1/versions/{version}/blobs/{blob}")
    assert (found.version, found.blob) == (version, blob)
    assert parse_target(f"/v1/versions/{version}/manifest").blob is None
    for path in (f"/v1/versions/{version}/blobs/../{blob}", f"/v1/versions/{version}/manifest?x"):
        assert parse_target(path) is None
