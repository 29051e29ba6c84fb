"""The verdict on an upload: config, index and tensors against the architecture (W10; reliability C5 ar_, ix_, cf_)."""

import json

import pytest

from safetensors_files import index_of
from weighbridge.errors import InvalidError
from weighbridge.weights.config import CONFIG_BYTES_MAX
from weighbridge.weights.shard_index import parse_index
from weighbridge.weights.tensors import DIFFERENCES_SHOWN, TensorSpec
from weighbridge.weights.verdict import Headers, Verdict, Wish, judge

A, B = TensorSpec("a", "BF16", (4, 2)), TensorSpec("b", "BF16", (2,))
CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}
WISH = Wish("tiny", (A, B), json.dumps(CONFIG).encode())


def verdict_of(
    files: dict[str, list[TensorSpec] | InvalidError],
    *,
    wish: Wish = WISH,
    config: bytes | None = None,
    index: bytes | None = None,
) -> Verdict:
    return judge(wish, Headers(config, index, files))


def refusal_of(files: dict[str, list[TensorSpec]], wish: Wish = WISH) -> InvalidError:
    with pytest.raises(InvalidError) as refusal:
        verdict_of(files, wish=wish).require()
    return refusal.value


def config_refusal(content: bytes) -> InvalidError:
    with pytest.raises(InvalidError) as refusal:
        verdict_of({"model.safetensors": [A, B]}, config=content).require()
    return refusal.value


def test_one_file_with_the_whole_table_needs_no_index() -> None:
    assert verdict_of({"model.safetensors": [B, A]}) == Verdict((), None)


def test_several_files_get_an_index_of_ours_even_without_the_customers() -> None:
    index = verdict_of({"1.safetensors": [A], "2.safetensors": [B]}).index
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
    assert verdict_of({"model.safetensors": [A, B]}, config=content).problems == ()


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
    verdict = verdict_of({"model.safetensors": [A, B]}, wish=wish, config=upload)
    assert "text_config.hidden_size" in verdict.problems[0].message


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
    verdict = verdict_of({"1.safetensors": [A], "2.safetensors": [B]}, index=content)
    assert code in [problem.code for problem in verdict.problems]


@pytest.mark.parametrize(
    "weight_map",
    [
        {"a": "2.safetensors", "b": "1.safetensors"},
        {"a": "1.safetensors", "b": "2.safetensors", "c": "1.safetensors"},
    ],
)
def test_an_index_that_disagrees_with_the_files_is_refused(weight_map: dict[str, str]) -> None:
    files = {"1.safetensors": [A], "2.safetensors": [B]}
    index = json.dumps({"weight_map": weight_map}).encode()
    assert [problem.code for problem in verdict_of(files, index=index).problems] == ["BAD_INDEX"]


@pytest.mark.parametrize(
    "content", [b"[]", b"{}", b'{"weight_map": []}', b'{"weight_map": {"a": 1}}']
)
def test_an_index_without_a_usable_weight_map_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidError) as refusal:
        parse_index(content)
    assert refusal.value.code == "BAD_INDEX"


def test_a_good_index_is_taken() -> None:
    files = {"1.safetensors": [A], "2.safetensors": [B]}
    assert verdict_of(files, index=index_of(files)).problems == ()


def test_everything_that_is_wrong_is_reported_at_once() -> None:
    config = json.dumps({**CONFIG, "hidden_size": 65, "quantization_config": {"bits": 4}}).encode()
    index = json.dumps({"weight_map": {"a": "1.safetensors", "b": "9.safetensors"}}).encode()
    files = {
        "1.safetensors": [TensorSpec("a", "F32", (4, 2))],
        "2.safetensors": InvalidError("2.safetensors: is torn.", code="ST_TOO_SHORT"),
        "3.safetensors": [TensorSpec("c", "F32", (1,))],
    }
    verdict = verdict_of(files, config=config, index=index)
    assert [(problem.code, problem.count) for problem in verdict.problems] == [
        ("WRONG_CONFIG", 1),
        ("UNSUPPORTED_QUANTIZATION", 1),
        ("MISSING_SHARD", 1),
        ("SURPLUS_SHARD", 2),
        ("ST_TOO_SHORT", 1),
        ("WRONG_TENSORS", 2),
    ]
    assert verdict.index is None
    with pytest.raises(InvalidError) as refusal:
        verdict.require()
    assert refusal.value.code == "WRONG_CONFIG"
    assert all(problem.message in refusal.value.message for problem in verdict.problems)


def test_tensors_of_a_missing_shard_are_that_shards_problem() -> None:
    index = json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}).encode()
    verdict = verdict_of({"1.safetensors": [A]}, index=index)
    assert [problem.code for problem in verdict.problems] == ["MISSING_SHARD"]


def test_without_an_index_an_unreadable_file_may_hold_what_is_missing() -> None:
    torn = InvalidError("2.safetensors: is torn.", code="ST_TOO_SHORT")
    verdict = verdict_of({"1.safetensors": [A], "2.safetensors": torn})
    assert [problem.code for problem in verdict.problems] == ["ST_TOO_SHORT"]


def test_the_same_fault_of_many_files_is_one_problem() -> None:
    files = {
        f"{number}.safetensors": InvalidError(f"{number} is torn.", code="ST_WRONG_SIZE")
        for number in range(30)
    }
    (problem,) = verdict_of(files).problems
    assert (problem.code, problem.count) == ("ST_WRONG_SIZE", 30)
    assert problem.message.endswith("and 10 more.")


VOCABULARY = Wish(
    "tiny",
    (TensorSpec("embed", "BF16", (100, 8)), TensorSpec("norm", "BF16", (8,))),
    json.dumps({"vocab_size": 100}).encode(),
)


def test_added_tokens_are_named_as_such() -> None:
    files = {
        "model.safetensors": [
            TensorSpec("embed", "BF16", (101, 8)),
            TensorSpec("norm", "BF16", (8,)),
        ]
    }
    (problem,) = verdict_of(files, wish=VOCABULARY, config=b'{"vocab_size": 101}').problems
    assert (problem.code, problem.count) == ("WRONG_VOCABULARY", 2)
    assert "tiny, which has 100 tokens" in problem.message
    assert "config.json states vocab_size 101, embed has 101 rows" in problem.message
    assert "tokenizer" in problem.message


def test_another_width_of_the_embedding_is_no_matter_of_vocabulary() -> None:
    files = {
        "model.safetensors": [
            TensorSpec("embed", "BF16", (100, 9)),
            TensorSpec("norm", "BF16", (8,)),
        ]
    }
    assert [p.code for p in verdict_of(files, wish=VOCABULARY).problems] == ["WRONG_TENSORS"]


@pytest.mark.parametrize(
    ("base", "upload", "refused"),
    [
        (None, {"quant_method": "gptq", "bits": 4}, True),
        (None, None, False),
        ({"quant_method": "mxfp4"}, None, False),
        ({"quant_method": "mxfp4"}, {"quant_method": "mxfp4", "modules_to_not_convert": []}, False),
        ({"quant_method": "fp8", "fmt": "e4m3"}, {"quant_method": "fp8", "fmt": "e5m2"}, True),
        ({"quant_method": "fp8"}, {"quant_method": "gptq"}, True),
        ({"quant_method": "fp8"}, "fp8", True),
        (None, {}, True),
    ],
)
def test_quantized_weights_are_taken_where_the_base_is_quantized_alike(
    base: object, upload: object, refused: bool
) -> None:
    wish = Wish("tiny", (A,), json.dumps({"quantization_config": base}).encode())
    config = json.dumps({"quantization_config": upload}).encode()
    verdict = verdict_of({"model.safetensors": [A]}, wish=wish, config=config)
    assert [p.code for p in verdict.problems] == (["UNSUPPORTED_QUANTIZATION"] if refused else [])
