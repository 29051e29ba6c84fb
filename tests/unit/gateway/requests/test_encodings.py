"""Bodies in each encoding: what official clients send is read, what is wrong is refused, and decoders agree."""

import gzip
import json
import struct
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighbridge.errors import InvalidError, LimitError
from weighbridge.gateway.errors import error_answer
from weighbridge.gateway.requests.content import BODY_BYTES_MAX, decode_json, read_object
from weighbridge.gateway.requests.msgpack import decode_msgpack

MESSAGES = [{"role": "user", "content": "hi"}]


def chat(**members: object) -> dict:
    return {"model": "m", "messages": MESSAGES, **members}


PLAIN = json.dumps(chat()).encode()
ENCODED_REFUSALS: dict[str, tuple[bytes, str, str, int]] = {
    "e_gzip_bomb": (gzip.compress(b" " * (BODY_BYTES_MAX + 1)), "", "gzip", 413),
    "e_gzip_nested": (gzip.compress(gzip.compress(PLAIN)), "", "gzip", 400),
    "e_gzip_truncated": (gzip.compress(PLAIN)[:-5], "", "gzip", 400),
    "e_gzip_trailing_member": (gzip.compress(PLAIN) * 2, "", "gzip", 400),
    "e_gzip_not": (PLAIN, "", "gzip", 400),
    "e_gzip_then_identity_header": (gzip.compress(PLAIN), "", "identity", 400),
    "e_deflate_unknown": (PLAIN, "", "deflate", 415),
    "e_br_unknown": (PLAIN, "", "br", 415),
    "e_encoding_list_10": (PLAIN, "", ",".join(["gzip"] * 10), 415),
    "e_msgpack_deep": (b"\x91" * 100 + b"\xc0", "application/vnd.msgpack", "", 400),
    "e_msgpack_map_4g_claim": (b"\xdf\xff\xff\xff\xff", "application/vnd.msgpack", "", 400),
    "e_msgpack_text_4g_claim": (b"\xdb\xff\xff\xff\xff", "application/vnd.msgpack", "", 400),
    "e_msgpack_bin_as_text": (b"\x81\xa5model\xc4\x01m", "application/vnd.msgpack", "", 400),
    "e_msgpack_ext_timestamp": (
        b"\x81\xa5model\xd6\xff\0\0\0\0",
        "application/vnd.msgpack",
        "",
        400,
    ),
    "e_msgpack_dup_key": (b"\x82\xa1a\x01\xa1a\x02", "application/vnd.msgpack", "", 400),
    "e_msgpack_nan": (
        b"\x81\xa1a\xcb" + struct.pack(">d", float("nan")),
        "application/msgpack",
        "",
        400,
    ),
    "e_msgpack_nan_key": (
        b"\x81\xcb" + struct.pack(">d", float("nan")) + b"\x01",
        "application/msgpack",
        "",
        400,
    ),
    "e_msgpack_trailing": (b"\x80\x80", "application/vnd.msgpack", "", 400),
    "e_msgpack_not_utf8": (b"\x81\xa1\xff\x01", "application/vnd.msgpack", "", 400),
    "e_msgpack_declared_json": (msgspec.msgpack.encode(chat()), "application/json", "", 400),
    "e_json_declared_msgpack": (PLAIN, "application/vnd.msgpack", "", 400),
    "e_form": (b"model=m", "application/x-www-form-urlencoded", "", 415),
    "g_body_8mb_plus_1": (b" " * (BODY_BYTES_MAX + 1), "", "", 413),
}


@pytest.mark.parametrize(
    ("body", "content_type", "encoding", "status"),
    ENCODED_REFUSALS.values(),
    ids=ENCODED_REFUSALS.keys(),
)
def test_a_wrong_encoding_is_refused(body, content_type, encoding, status):
    with pytest.raises((InvalidError, LimitError)) as raised:
        read_object(body, content_type, encoding)
    assert error_answer(raised.value).status == status


@pytest.mark.parametrize("content_type", ["application/vnd.msgpack", "application/msgpack"])
@pytest.mark.parametrize("encoding", ["", "gzip"])
def test_what_official_clients_send_is_accepted(content_type, encoding):
    body = msgspec.msgpack.encode(chat(temperature=0.5, seed=2**40, stop=["é" * 300]))
    packed = gzip.compress(body) if encoding else body
    assert read_object(packed, content_type, encoding) == msgspec.msgpack.decode(body)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(), inner, max_size=20),
    max_leaves=40,
)


@given(VALUES)
def test_msgpack_says_the_same_as_a_general_decoder(value):
    assert decode_msgpack(msgspec.msgpack.encode(value), 64) == value


@given(st.binary(max_size=200))
def test_any_msgpack_bytes_end_in_a_value_or_a_refusal(body):
    with suppress(InvalidError):
        decode_msgpack(body, 64)


@given(VALUES)
def test_json_says_the_same_as_a_general_decoder(value):
    assert decode_json(json.dumps(value).encode()) == value


def test_64_levels_are_deep_enough():
    assert decode_json(b"[" * 64 + b"]" * 64)
