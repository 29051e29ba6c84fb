"""The quick reading of JSON is that of the slow one: same values, same refusals."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighbridge.errors import InvalidError
from weighbridge.gateway.requests.content import DEPTH_MAX, _decode_slowly, decode_json

NAMES = st.sampled_from(["a", "b", 'q":', "c :", "\\", "é", ""])
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.sampled_from('ab":\\ \n\té☃,{}[]'), max_size=8),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(NAMES, children, max_size=4),
    max_leaves=12,
)


def outcome(decode, text: bytes) -> object:
    try:
        return repr(decode(text))
    except InvalidError as error:
        return error.message


@given(VALUES, st.sampled_from([None, 1, "\t"]), st.booleans())
def test_a_value_is_read_the_same(value, indent, ascii_only):
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()
    assert outcome(decode_json, text) == outcome(_decode_slowly, text)


@given(
    VALUES,
    st.integers(0, 200),
    st.sampled_from([b'"', b":", b"\\", b"}", b"{", b"\xff", b"1", b"\\ud800"]),
)
def test_a_broken_text_is_refused_the_same(value, place, piece):
    text = json.dumps(value).encode()
    broken = text[:place] + piece + text[place:]
    assert outcome(decode_json, broken) == outcome(_decode_slowly, broken)


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":1,"a":1}',
        b'{"a":1,"\\u0061":2}',
        b'{"a" : 1, "b": ":", "a": 2}',
        b'{"x":{"a":1,"a":2},"y":"\\":"}',
        b'[{"a":{}},{"a":{},"a":{}}]',
        b'{"a":1,"b":{"a":1,"a":1},"c":"::::"}',
    ],
)
def test_a_name_that_comes_twice_is_always_found(text):
    with pytest.raises(InvalidError, match="names a member twice"):
        decode_json(text)


@pytest.mark.parametrize("text", [b"NaN", b"[Infinity]", b'{"a":-Infinity}', b'"\\ud800"', b"1e"])
def test_what_is_not_json_is_refused(text):
    with pytest.raises(InvalidError, match="Invalid JSON"):
        decode_json(text)


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_depth_is_limited_and_deep_text_is_survived(opening, closing):
    filler = b"1"
    decode_json(opening * (DEPTH_MAX - 1) + filler + closing * (DEPTH_MAX - 1))
    for depth in (DEPTH_MAX + 2, 100_000):
        with pytest.raises(InvalidError, match="nested deeper"):
            decode_json(opening * depth + filler + closing * depth)
