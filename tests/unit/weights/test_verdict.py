"""The verdict on an upload: config, index and tensors against the architecture (W10; reliability C5 ar_, ix_, cf_)."""

import json

import pytest

from safetensors_files import index_of
from weighbridge.errors import InvalidError
from weighbridge.weights.config import CONFIG_BYTES_MAX
from weighbridge.weights.shard_index import parse_index
from weighbridge.weights.tensors import DIFFERENCES_SHOWN, TensorSpec
from weighbridge.weights.verdict import Wish, check_files, check_tensors

A, B = TensorSpec("a", "BF16", (4, 2)), TensorSpec("b", "BF16", (2,))
CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}
WISH = Wish("tiny", (A, B), json.dumps(CONFIG).encode())


def refusal_of(files: dict[str, list[TensorSpec]], wish: Wish = WISH) -> InvalidError:
    with pytest.raises(InvalidError) as refusal:
        check_tensors(wish, files, None)
    return refusal.value


def config_refusal(content: bytes) -> InvalidError:
    with pytest.raises(InvalidError) as refusal:
        check_files(WISH, ["model.safetensors"], content, None)
    return refusal.value


def test_one_file_with_the_whole_table_needs_no_index() -> None:
    assert check_tensors(WISH, {"model.safetensors": [B, A]}, None) is None


def test_several_files_get_an_index_of_ours_even_without_the_customers() -> None:
    index = check_tensors(WISH, {"1.safetensors": [A], "2.safetensors": [B]}, None)
    assert index is not None
    assert json.loads(index) == {
        "metadata": {"total_size": 20},
        "weight_map": {"a": "1.safetensors", "b": "2.safetensors"},
    }


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ([A], "1 missing: b"),
        ([A, B, TensorSpec("lm_head.weight", "BF16", (4, 2))], "1 unexpected: lm_head.weight"),
        ([A, TensorSpec("b", "F32", (2,))], "1 of the wrong dtype: b (F32, not BF16)"),
        ([TensorSpec("a", "BF16", (2, 4)), B], "1 of the wrong shape: a ([2, 4], not [4, 2])"),
    ],
)
def test_each_kind_of_difference_is_counted_and_named(found: list[TensorSpec], words: str) -> None:
    refusal = refusal_of({"model.safetensors": found})
    assert refusal.code == "WRONG_TENSORS"
    assert words in refusal.message


def test_a_tensor_in_two_files_is_refused() -> None:
    refusal = refusal_of({"1.safetensors": [A, B], "2.safetensors": [B]})
    assert "1 in more than one file: b" in refusal.message


def test_an_adapter_gets_advice() -> None:
    lora = TensorSpec("base_model.model.a.lora_A.weight", "BF16", (2, 2))
    assert "merge it" in refusal_of({"adapter_model.safetensors": [lora]}).message


def test_many_differences_are_counted_but_only_the_first_are_named() -> None:
    table = tuple(TensorSpec(f"t{number:04}", "BF16", (1,)) for number in range(1000))
    wish = Wish("tiny", table, b"{}")
    extra = [TensorSpec(f"x{number:04}", "BF16", (1,)) for number in range(500)]
    message = refusal_of({"model.safetensors": extra}, wish).message
    assert "1000 missing" in message
    assert "500 unexpected" in message
    assert sum(f"t{n:04}" in message for n in range(1000)) == DIFFERENCES_SHOWN // 2
    assert len(message) < 1000


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_size": 128}, "hidden_size is '128', not '64'"),
        ({"hidden_size": "64"}, "hidden_size"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings"),
        ({"rope_theta": 500000.0}, "rope_theta"),
        ({"model_type": "qwen3"}, "model_type"),
    ],
)
def test_a_config_of_another_model_is_refused(change: dict[str, object], words: str) -> None:
    refusal = config_refusal(json.dumps({**CONFIG, **change}).encode())
    assert refusal.code == "WRONG_CONFIG"
    assert words in refusal.message


@pytest.mark.parametrize(
    "change",
    [{}, {"auto_map": {"AutoModel": "evil.Model"}}, {"rope_theta": 10000}, {"unknown": [1, 2]}],
)
def test_members_that_shape_nothing_are_not_read(change: dict[str, object]) -> None:
    content = json.dumps({**CONFIG, **change}).encode()
    assert check_files(WISH, ["model.safetensors"], content, None) is None


@pytest.mark.parametrize(
    "content",
    [
        b'{"hidden_size": 64, "hidden_size": 65}',
        b'\xef\xbb\xbf{"hidden_size": 64}',
        b'{"rope_theta": NaN}',
        b'{"rope_theta": 1e999}',
        b"hidden_size: 64",
        b"\x80\x04\x95pickle",
        b'{"a":' + b"[" * 100_001,
        b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        b" " * (CONFIG_BYTES_MAX + 1),
        b"[]",
    ],
)
def test_a_config_that_is_not_strict_json_is_refused(content: bytes) -> None:
    refusal = config_refusal(content)
    assert refusal.code == "BAD_CONFIG"
    assert len(refusal.message) < 300


def test_a_nested_text_config_is_compared() -> None:
    wish = Wish("tiny", (A, B), json.dumps({"text_config": {"hidden_size": 1}}).encode())
    upload = json.dumps({"text_config": {"hidden_size": 2}}).encode()
    with pytest.raises(InvalidError, match=r"text_config\.hidden_size"):
        check_files(wish, ["model.safetensors"], upload, None)


@pytest.mark.parametrize(
    ("weight_map", "code"),
    [
        ({"a": "1.safetensors", "b": "3.safetensors"}, "MISSING_SHARD"),
        ({"a": "1.safetensors", "b": "../../2.safetensors"}, "MISSING_SHARD"),
        ({"a": "1.safetensors", "b": "1.safetensors"}, "SURPLUS_SHARD"),
    ],
)
def test_an_index_names_exactly_the_files_that_are_there(
    weight_map: dict[str, str], code: str
) -> None:
    content = json.dumps({"weight_map": weight_map}).encode()
    with pytest.raises(InvalidError) as refusal:
        check_files(WISH, ["1.safetensors", "2.safetensors"], None, content)
    assert refusal.value.code == code


@pytest.mark.parametrize(
    "weight_map",
    [
        {"a": "2.safetensors", "b": "1.safetensors"},
        {"a": "1.safetensors", "b": "2.safetensors", "c": "1.safetensors"},
    ],
)
def test_an_index_that_disagrees_with_the_files_is_refused(weight_map: dict[str, str]) -> None:
    files = {"1.safetensors": [A], "2.safetensors": [B]}
    with pytest.raises(InvalidError) as refusal:
        check_tensors(WISH, files, weight_map)
    assert refusal.value.code == "BAD_INDEX"


@pytest.mark.parametrize(
    "content", [b"[]", b"{}", b'{"weight_map": []}', b'{"weight_map": {"a": 1}}']
)
def test_an_index_without_a_usable_weight_map_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidError) as refusal:
        parse_index(content)
    assert refusal.value.code == "BAD_INDEX"


def test_a_good_index_is_taken() -> None:
    files = {"1.safetensors": [A], "2.safetensors": [B]}
    weight_map = check_files(WISH, sorted(files), None, index_of(files))
    assert check_tensors(WISH, files, weight_map) is not None
