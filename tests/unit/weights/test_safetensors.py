"""The strict header check: what it takes, and every named malformation it refuses (reliability C5 st_*)."""

import json
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safetensors_files import encode, header_of, safetensors_file
from weighbridge.errors import InvalidError
from weighbridge.weights import safetensors
from weighbridge.weights.safetensors import header_length, parse_header
from weighbridge.weights.tensors import DTYPE_BITS, TensorSpec

A = TensorSpec("a", "F32", (2, 2))
B = TensorSpec("b", "BF16", (4,))


def tensor(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> object:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def one(name: str = "a", **changes: object) -> bytes:
    return encode({name: tensor(**changes)}, bytes(8))


def raw(text: bytes, data: bytes = bytes(8)) -> bytes:
    return encode(text, data)


GOOD = json.dumps({"a": tensor()}).encode()
ENTRY = json.dumps(tensor()).encode()

CASES = {
    "st_empty": (b"", "ST_TOO_SHORT"),
    "st_7_bytes": (bytes(7), "ST_TOO_SHORT"),
    "st_len_zero": (bytes(8), "ST_TOO_SHORT"),
    "st_len_max_u64": (b"\xff" * 8 + GOOD, "ST_HEADER_TOO_LONG"),
    "st_len_gt_file": (struct.pack("<Q", 1000) + GOOD, "ST_TOO_SHORT"),
    "st_len_100m_plus_1": (struct.pack("<Q", 100_000_001) + GOOD, "ST_HEADER_TOO_LONG"),
    "st_len_our_cap_plus_1": (
        struct.pack("<Q", safetensors.HEADER_BYTES_MAX + 1) + GOOD,
        "ST_HEADER_TOO_LONG",
    ),
    "st_not_utf8": (raw(b'{"a\xff": 1}'), "ST_NOT_JSON"),
    "st_bom": (raw(b"\xef\xbb\xbf" + GOOD), "ST_NOT_JSON"),
    "st_utf16": (raw(GOOD.decode().encode("utf-16")), "ST_NOT_JSON"),
    "st_leading_space": (raw(b" " + GOOD), "ST_NOT_JSON"),
    "st_leading_newline": (raw(b"\n" + GOOD), "ST_NOT_JSON"),
    "st_trailing_garbage": (raw(GOOD + b"x"), "ST_NOT_JSON"),
    "st_trailing_nul_pad": (raw(GOOD + bytes(4)), "ST_NOT_JSON"),
    "st_array_root": (raw(b"[]"), "ST_NOT_JSON"),
    "st_string_root": (raw(b'"a"'), "ST_NOT_JSON"),
    "st_null_root": (raw(b"null"), "ST_NOT_JSON"),
    "st_empty_object": (raw(b"{}", b""), "ST_NO_TENSORS"),
    "st_dup_key_same": (raw(b'{"a":%b,"a":%b}' % (ENTRY, ENTRY)), "ST_NOT_JSON"),
    "st_dup_key_other_shape": (
        raw(b'{"a":%b,"a":%b}' % (ENTRY, ENTRY.replace(b"[2]", b"[1]"))),
        "ST_NOT_JSON",
    ),
    "st_dup_metadata": (
        raw(b'{"__metadata__":{},"__metadata__":{},"a":%b}' % ENTRY),
        "ST_NOT_JSON",
    ),
    "st_nan_literal": (raw(b'{"a":NaN}'), "ST_NOT_JSON"),
    "st_inf_literal": (raw(b'{"a":-Infinity}'), "ST_NOT_JSON"),
    "st_deep_200k": (raw(b'{"a":' + b"[" * 200_000), "ST_NOT_JSON"),
    "st_1m_zero_tensors": (
        raw(b"{" + b",".join(b'"%d":{}' % n for n in range(1_000_000)) + b"}"),
        "ST_NOT_JSON",
    ),
    "st_100k_tensors": (
        raw(b"{" + b",".join(b'"%d":{}' % n for n in range(100_000)) + b"}"),
        "ST_TOO_MANY_TENSORS",
    ),
    "st_name_empty": (one(""), "ST_BAD_NAME"),
    "st_name_nul": (one("a\0b"), "ST_BAD_NAME"),
    "st_name_dotdot": (one("a/../b"), "ST_BAD_NAME"),
    "st_name_slash_abs": (one("/etc/passwd"), "ST_BAD_NAME"),
    "st_name_64k": (one("a" * 65_536), "ST_BAD_NAME"),
    "st_name_rtl_override": (one("a\u202eb"), "ST_BAD_NAME"),
    "st_name_homoglyph": (one("\u0430"), "ST_BAD_NAME"),
    "st_overlap": (
        encode({"a": tensor(), "b": tensor(offsets=(4, 12))}, bytes(12)),
        "ST_BAD_OFFSETS",
    ),
    "st_gap": (
        encode({"a": tensor(), "b": tensor(offsets=(12, 20))}, bytes(20)),
        "ST_BAD_OFFSETS",
    ),
    "st_reversed_offsets": (one(offsets=(8, 0)), "ST_BAD_OFFSETS"),
    "st_negative_offset": (one(offsets=(-8, 0)), "ST_BAD_OFFSETS"),
    "st_float_offset": (one(offsets=(0, 8.0)), "ST_NOT_JSON"),
    "st_offset_2_63": (one(offsets=(0, 2**63)), "ST_BAD_OFFSETS"),
    "st_truncated_data": (safetensors_file([A])[:-1], "ST_WRONG_SIZE"),
    "st_extra_data": (safetensors_file([A]) + b"x", "ST_WRONG_SIZE"),
    "st_shape_product_overflow": (one(shape=(2**32, 2**32, 2)), "ST_BAD_OFFSETS"),
    "st_shape_negative": (one(shape=(-2, -1)), "ST_BAD_SHAPE"),
    "st_shape_float": (one(shape=(2.0,)), "ST_NOT_JSON"),
    "st_shape_bool": (one(shape=(True, 2)), "ST_BAD_SHAPE"),
    "st_shape_1000_dims": (one(shape=(1,) * 1000), "ST_BAD_SHAPE"),
    "st_zero_dim": (one(shape=(0,), offsets=(0, 0)), "ST_BAD_SHAPE"),
    "st_dtype_unknown": (one(dtype="F3"), "ST_BAD_DTYPE"),
    "st_dtype_lowercase": (one(dtype="f32"), "ST_BAD_DTYPE"),
    "st_metadata_50mb": (struct.pack("<Q", 50_000_000) + b"{", "ST_HEADER_TOO_LONG"),
    "st_metadata_2mb": (
        encode({"__metadata__": {"x": "y" * 2_000_000}, "a": tensor()}, bytes(8)),
        "ST_BAD_METADATA",
    ),
    "st_metadata_non_string": (
        encode({"__metadata__": {"x": 1}, "a": tensor()}, bytes(8)),
        "ST_BAD_METADATA",
    ),
    "st_metadata_nested": (
        encode({"__metadata__": {"x": {}}, "a": tensor()}, bytes(8)),
        "ST_BAD_METADATA",
    ),
    "st_metadata_surrogate": (
        raw(b'{"__metadata__":{"x":"\\ud800"},"a":%b}' % ENTRY),
        "ST_BAD_METADATA",
    ),
    "st_member_extra": (raw(b'{"a":%b}' % ENTRY.replace(b"{", b'{"x":1,')), "ST_BAD_TENSOR"),
    "st_long_integer": (raw(b'{"a":%b}' % (b"9" * 5000)), "ST_NOT_JSON"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_malformed_file_is_refused_with_its_code(name: str) -> None:
    content, code = CASES[name]
    with pytest.raises(InvalidError) as refusal:
        parse_header(content, len(content))
    assert refusal.value.code == code
    assert refusal.value.message.isprintable()
    assert len(refusal.value.message) < 800


def test_a_good_file_gives_its_tensors_in_the_order_of_their_bytes() -> None:
    content = safetensors_file([B, A])
    assert parse_header(content, len(content)) == (B, A)


def test_the_data_need_not_be_there_and_metadata_and_padding_are_taken() -> None:
    header = json.dumps({"__metadata__": {"format": "pt"}, **header_of([A, B])}).encode() + b"   "
    head = encode(header)
    assert header_length(head) == len(header)
    assert parse_header(head, len(head) + 24) == (A, B)


def test_a_scalar_is_a_tensor() -> None:
    scalar = TensorSpec("scale", "F32", ())
    content = safetensors_file([scalar])
    assert parse_header(content, len(content)) == (scalar,)


names = st.text("abcdefgh0123456789._-", min_size=1, max_size=30).filter(lambda n: ".." not in n)
specs = st.builds(
    TensorSpec,
    names,
    st.sampled_from(sorted(DTYPE_BITS)),
    st.lists(st.integers(1, 5), max_size=4).map(tuple),
)


@given(st.lists(specs, min_size=1, max_size=8, unique_by=lambda spec: spec.name))
def test_every_well_formed_file_is_read_back(written: list[TensorSpec]) -> None:
    content = safetensors_file(written)
    assert parse_header(content, len(content)) == tuple(written)


def refused_code(content: bytes) -> str:
    """The code of the refusal, or ST_ for content that is taken."""
    try:
        parse_header(content, len(content))
    except InvalidError as refusal:
        return refusal.code
    return "ST_"


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_and_nothing_else(content: bytes) -> None:
    assert refused_code(content).startswith("ST_")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


@settings(suppress_health_check=[HealthCheck.too_slow])  # its first draw builds the strategies
@given(st.dictionaries(names, json_values, max_size=4), st.integers(0, 64))
def test_any_json_is_read_or_refused_and_nothing_else(header: object, data_bytes: int) -> None:
    content = encode(header, bytes(data_bytes))
    assert refused_code(content).startswith("ST_")


@given(st.data())
def test_no_flipped_byte_lets_the_tensors_miss_a_byte_of_data(data: st.DataObject) -> None:
    content = bytearray(safetensors_file([A, B]))
    at = data.draw(st.integers(0, len(content) - 25))
    content[at] = data.draw(st.integers(0, 255))
    try:
        found = parse_header(bytes(content), len(content))
    except InvalidError:
        return
    covered = sum(safetensors.DTYPE_BITS[s.dtype] * _count(s.shape) // 8 for s in found)
    assert covered == len(content) - 8 - header_length(bytes(content[:8]))


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for dimension in shape:
        count *= dimension
    return count
