import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighbridge.engines.gguf.tensors import INDEX_FILE, SINGLE_FILE, read_tensors
from weighbridge.errors import InvalidError


def safetensors(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype: str, shape: list, begin: int, end: int) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


GOOD = safetensors({"a": entry("F32", [2], 0, 8)}, b"\0" * 8)


def test_values_come_back_from_each_type(tmp_path: Path):
    values = np.array([[1.5, -2.0], [0.25, 65504.0]], dtype=np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    header = {
        "__metadata__": {"format": "pt"},
        "a": entry("F32", [2, 2], 0, 16),
        "b": entry("F16", [2, 2], 16, 24),
        "c": entry("BF16", [2, 2], 24, 32),
    }
    data = values.tobytes() + values.astype(np.float16).tobytes() + bits.tobytes()
    (tmp_path / SINGLE_FILE).write_bytes(safetensors(header, data))
    tensors = read_tensors(tmp_path)
    assert tensors.keys() == {"a", "b", "c"}
    assert tensors["a"].float32().tolist() == values.tolist()
    assert tensors["b"].float32().tolist() == values.tolist()
    assert tensors["c"].raw().tolist() == bits.tolist()
    # 65504 needs more than bf16's eight bits: it is stored as 65280.
    assert tensors["c"].float32().tolist() == [[1.5, -2.0], [0.25, 65280.0]]


def test_shards_are_read_together(tmp_path: Path):
    (tmp_path / "1.safetensors").write_bytes(GOOD)
    (tmp_path / "2.safetensors").write_bytes(GOOD.replace(b'"a"', b'"b"'))
    index = {"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}
    (tmp_path / INDEX_FILE).write_text(json.dumps(index))
    assert read_tensors(tmp_path).keys() == {"a", "b"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "cut off"),
        (b"\1\0\0", "cut off"),
        (struct.pack("<Q", 1000) + b"{}", "cut off"),
        (struct.pack("<Q", 2**63) + b"{}", "cut off"),
        (safetensors(b"{not json"), "is not JSON"),
        (safetensors(b"\xff\xfe"), "is not JSON"),
        (safetensors([]), "not a JSON object"),
        (safetensors({"a": 3}), "no dtype"),
        (safetensors({"a": {"dtype": "F32"}}), "no dtype"),
        (safetensors({"a": entry("I64", [1], 0, 8)}, b"\0" * 8), "has type I64"),
        (safetensors({"a": entry("F32", [-2], 0, 8)}, b"\0" * 8), "has shape"),
        (safetensors({"a": entry("F32", ["2"], 0, 8)}, b"\0" * 8), "has shape"),
        (safetensors({"a": entry("F32", [3], 0, 8)}, b"\0" * 8), "does not lie within"),
        (safetensors({"a": entry("F32", [2], 0, 8)}, b"\0" * 7), "does not lie within"),
        (safetensors({"a": entry("F32", [2], -8, 0)}, b"\0" * 8), "does not lie within"),
        (safetensors({"a": entry("F32", [2**62], 0, 2**64)}, b"\0" * 8), "does not lie within"),
    ],
)
def test_a_damaged_file_is_refused_with_its_name(tmp_path: Path, content, says):
    (tmp_path / SINGLE_FILE).write_bytes(content)
    with pytest.raises(InvalidError, match=says) as refused:
        read_tensors(tmp_path)
    assert SINGLE_FILE in refused.value.message


@pytest.mark.parametrize(
    ("index", "says"),
    [
        ({}, "no weight_map"),
        ({"weight_map": {"a": "../1.safetensors"}}, "plain file name"),
        ({"weight_map": {"a": 1}}, "plain file name"),
        ({"weight_map": {"a": ".."}}, "plain file name"),
        ({"weight_map": {"a": "missing.safetensors"}}, "cannot be read"),
        ({"weight_map": {"b": "1.safetensors"}}, "no shard holds tensor b"),
        ({"weight_map": {"a": "1.safetensors", "b": "copy.safetensors"}}, "another shard"),
    ],
)
def test_a_wrong_index_is_refused(tmp_path: Path, index, says):
    (tmp_path / "1.safetensors").write_bytes(GOOD)
    (tmp_path / "copy.safetensors").write_bytes(GOOD)
    (tmp_path / INDEX_FILE).write_text(json.dumps(index))
    with pytest.raises(InvalidError, match=says):
        read_tensors(tmp_path)


def test_a_directory_without_weights_is_refused(tmp_path: Path):
    with pytest.raises(InvalidError, match="cannot be read"):
        read_tensors(tmp_path)


@given(content=st.binary(max_size=64), cut=st.integers(0, len(GOOD)))
def test_no_bytes_make_the_reader_fail_otherwise(tmp_path_factory, content: bytes, cut: int):
    folder = tmp_path_factory.mktemp("model")
    (folder / SINGLE_FILE).write_bytes(GOOD[:cut] + content)
    try:
        tensors = read_tensors(folder)
    except InvalidError:
        return
    for tensor in tensors.values():
        tensor.float32()
