import json
from pathlib import Path

import pytest

from weighbridge.engines.gguf.shape import Family, parse_shape, rope_divisors
from weighbridge.errors import InvalidError

MODELS = Path(__file__).parents[2] / "models"
LLAMA31 = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "torch_dtype": "bfloat16",
    "rope_scaling": {
        "factor": 8.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "tie_word_embeddings": False,
}


def config_of(model: str) -> dict:
    return json.loads((MODELS / model / "config.json").read_text())


def test_both_forms_of_rotary_settings_mean_the_same():
    version_5 = {key: value for key, value in LLAMA31.items() if not key.startswith("rope")}
    version_5["rope_parameters"] = {**LLAMA31["rope_scaling"], "rope_theta": 500000.0}
    assert parse_shape(version_5) == parse_shape(LLAMA31)


def test_a_shape_without_head_dim_divides_the_hidden_size():
    assert parse_shape(LLAMA31).head_size == 128


@pytest.mark.parametrize(
    ("model", "family", "tied"),
    [
        ("llama-v1", Family.LLAMA, True),
        ("llama3-tiny", Family.LLAMA, False),
        ("mistral-tiny", Family.MISTRAL, False),
        ("qwen2-tiny", Family.QWEN2, True),
        ("qwen3-tiny", Family.QWEN3, True),
    ],
)
def test_each_committed_model_has_a_shape(model, family, tied):
    shape = parse_shape(config_of(model))
    assert (shape.family, shape.tied_embeddings) == (family, tied)


def test_the_llama3_divisors_keep_fast_frequencies_and_slow_the_others():
    divisors = rope_divisors(parse_shape(LLAMA31))
    assert len(divisors) == 64
    # Frequency 28 turns 4.18 times in 8192 tokens, 29 turns 3.4 times, 35 less than once.
    assert set(divisors[:29]) == {1.0}
    assert all(1.0 < divisor < 8.0 for divisor in divisors[29:35])
    assert set(divisors[35:]) == {8.0}


def test_a_shape_without_scaling_has_no_divisors():
    assert rope_divisors(parse_shape(config_of("llama-v1"))) == ()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"architectures": ["GptOssForCausalLM"]}, "GptOssForCausalLM"),
        ({"architectures": None}, "supported are LlamaForCausalLM"),
        ({"architectures": ["LlamaForCausalLM", "x"]}, "supported are"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "'yarn'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "'linear'"),
        ({"rope_scaling": 3}, "not an object"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"sliding_window": 4096}, "sliding-window"),
        ({"hidden_size": "4096"}, "hidden_size"),
        ({"num_hidden_layers": True}, "num_hidden_layers"),
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"vocab_size": None}, "vocab_size"),
        ({"rms_norm_eps": -1}, "rms_norm_eps"),
    ],
)
def test_what_cannot_be_converted_exactly_is_refused_by_name(change, says):
    with pytest.raises(InvalidError, match=says):
        parse_shape({**LLAMA31, **change})


def test_a_window_that_qwen_does_not_use_is_no_obstacle():
    qwen = {**config_of("qwen2-tiny"), "sliding_window": 4096, "use_sliding_window": False}
    assert parse_shape(qwen).family is Family.QWEN2
