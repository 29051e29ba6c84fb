"""The strict header check: what it takes, and every named malformation it refuses (reliability C5 st_*)."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safetensors_cases import CASES
from safetensors_files import encode, header_of, safetensors_file
from weighbridge.errors import InvalidError
from weighbridge.weights import safetensors
from weighbridge.weights.safetensors import header_length, parse_header
from weighbridge.weights.tensors import DTYPE_BITS, TensorSpec

A = TensorSpec("a", "F32", (2, 2))
B = TensorSpec("b", "BF16", (4,))


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
