"""Malformed safetensors files by name, each with the code it is refused with (reliability C5 st_*)."""

import json
import struct

from safetensors_files import encode, safetensors_file
from weighbridge.weights import safetensors
from weighbridge.weights.tensors import TensorSpec

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
