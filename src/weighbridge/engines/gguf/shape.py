"""What config.json says of a model's shape, in the forms that transformers 4 and 5 write."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import pi

from weighbridge.errors import InvalidError


class Family(StrEnum):
    """The shapes the converter knows, by the model class of transformers."""

    LLAMA = "LlamaForCausalLM"
    MISTRAL = "MistralForCausalLM"
    QWEN2 = "Qwen2ForCausalLM"
    QWEN3 = "Qwen3ForCausalLM"


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """How Llama 3.1 stretches its positions: slow frequencies are divided, fast ones left alone."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context_tokens: int


@dataclass(frozen=True, slots=True)
class ModelShape:
    family: Family
    vocab: int
    hidden: int
    feed_forward: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    context_tokens: int
    norm_epsilon: float
    rope_theta: float
    rope_scaling: Llama3Scaling | None
    tied_embeddings: bool


def parse_shape(config: Mapping[str, object]) -> ModelShape:
    """Raises InvalidError for an architecture or feature that the converter does not know."""
    family = _family(config)
    _refuse_unsupported(config)
    rope = _rope(config)
    hidden, heads = _whole(config, "hidden_size"), _whole(config, "num_attention_heads")
    return ModelShape(
        family=family,
        vocab=_whole(config, "vocab_size"),
        hidden=hidden,
        feed_forward=_whole(config, "intermediate_size"),
        layers=_whole(config, "num_hidden_layers"),
        heads=heads,
        kv_heads=_whole(config, "num_key_value_heads", heads),
        head_size=_whole(config, "head_dim", hidden // heads),
        context_tokens=_whole(config, "max_position_embeddings"),
        norm_epsilon=_number(config, "rms_norm_eps", 1e-6),
        rope_theta=_number(rope, "rope_theta", 10000.0),
        rope_scaling=_scaling(rope),
        tied_embeddings=config.get("tie_word_embeddings") is True,
    )


def rope_divisors(shape: ModelShape) -> tuple[float, ...]:
    """What each rotary frequency is divided by under Llama-3 scaling; empty without it.

    With the published Llama 3.1 numbers (theta 500000, factor 8, 1 to 4 turns, 8192 tokens) a
    frequency that turns more than 4 times in 8192 tokens keeps its divisor 1, one that turns less
    than once gets 8, and those between are blended.
    """
    scaling = shape.rope_scaling
    if scaling is None:
        return ()
    divisors = []
    for pair in range(0, shape.head_size, 2):
        wavelength = 2 * pi * shape.rope_theta ** (pair / shape.head_size)
        turns = scaling.original_context_tokens / wavelength
        if turns > scaling.high_freq_factor:
            divisors.append(1.0)
        elif turns < scaling.low_freq_factor:
            divisors.append(scaling.factor)
        else:
            span = scaling.high_freq_factor - scaling.low_freq_factor
            smooth = (turns - scaling.low_freq_factor) / span
            divisors.append(1 / ((1 - smooth) / scaling.factor + smooth))
    return tuple(divisors)


def _family(config: Mapping[str, object]) -> Family:
    match config.get("architectures"):
        case [str(name)] if name in set(Family):
            return Family(name)
        case other:
            raise InvalidError(
                f"architecture {other!r} cannot be served by llama.cpp here; supported are "
                f"{', '.join(Family)}. Use another engine for it, such as vllm."
            )


def _refuse_unsupported(config: Mapping[str, object]) -> None:
    """Features that change the arithmetic and that the converter would leave out in silence."""
    if config.get("quantization_config"):
        raise InvalidError("quantized weights (quantization_config) are not supported by llamacpp")
    if config.get("hidden_act", "silu") != "silu":
        raise InvalidError(f"hidden_act {config.get('hidden_act')!r} is not supported, only silu")
    if config.get("mlp_bias"):
        raise InvalidError("mlp_bias is not supported")
    # Mistral uses its window whenever one is set, Qwen only with use_sliding_window.
    if config.get("sliding_window") and config.get("use_sliding_window", True):
        raise InvalidError("sliding-window attention is not supported by llamacpp here")


def _rope(config: Mapping[str, object]) -> Mapping[str, object]:
    """One mapping of the rotary settings: version 5 writes it so, version 4 spreads it out."""
    match config.get("rope_parameters") or config.get("rope_scaling"):
        case dict(found):
            return {"rope_theta": config.get("rope_theta"), **found}
        case None:
            return {"rope_theta": config.get("rope_theta")}
        case other:
            raise InvalidError(f"config.json: rope settings {other!r} are not an object")


def _scaling(rope: Mapping[str, object]) -> Llama3Scaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise InvalidError(f"rope scaling {kind!r} is not supported; supported are default, llama3")
    return Llama3Scaling(
        factor=_number(rope, "factor"),
        low_freq_factor=_number(rope, "low_freq_factor"),
        high_freq_factor=_number(rope, "high_freq_factor"),
        original_context_tokens=_whole(rope, "original_max_position_embeddings"),
    )


def _whole(config: Mapping[str, object], key: str, default: int | None = None) -> int:
    value = config.get(key)
    if value is None:
        value = default
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise InvalidError(f"config.json: {key} is {value!r}, expected a positive whole number")
    return value


def _number(config: Mapping[str, object], key: str, default: float | None = None) -> float:
    value = config.get(key)
    if value is None:
        value = default
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise InvalidError(f"config.json: {key} is {value!r}, expected a positive number")
    return float(value)
