"""A customer's config.json, held against the operator's; compared and nothing else, for it is never loaded."""

from collections.abc import Mapping, Sequence

from weighbridge.weights.strict_json import JsonLimits, parse_object, shown

CONFIG_FILE = "config.json"
CONFIG_BYTES_MAX = 1024 * 1024
_LIMITS = JsonLimits(bytes_max=CONFIG_BYTES_MAX, nodes_max=100_000)

COMPARED = (
    "model_type",
    "architectures",
    "hidden_size",
    "intermediate_size",
    "moe_intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "num_local_experts",
    "num_experts",
    "num_experts_per_tok",
    "head_dim",
    "hidden_act",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "sliding_window",
    "tie_word_embeddings",
)
"""Members that shape the computation: weights trained with other values would be served wrongly, in silence.

Compared where both state them, because libraries rename and leave out members between releases. `vocab_size` has
a comparison of its own: `vocabulary_size`.
"""
QUANTIZATION = "quantization_config"


def parse_config(content: bytes) -> Mapping[str, object]:
    """Strict JSON, at most CONFIG_BYTES_MAX; InvalidError BAD_CONFIG."""
    return parse_object(content, what=CONFIG_FILE, code="BAD_CONFIG", limits=_LIMITS)


def config_differences(base: Mapping[str, object], upload: Mapping[str, object]) -> Sequence[str]:
    """One phrase for each compared member that differs, nested `text_config` included."""
    found = [
        f"{name} is {shown(repr(upload[name]))}, not {shown(repr(base[name]))}"
        for name in COMPARED
        if name in base and name in upload and not _same(base[name], upload[name])
    ]
    inner_base, inner_upload = base.get("text_config"), upload.get("text_config")
    if isinstance(inner_base, dict) and isinstance(inner_upload, dict):
        found += [
            f"text_config.{name} is {shown(repr(inner_upload[name]))}, not {shown(repr(inner_base[name]))}"
            for name in COMPARED
            if name in inner_base
            and name in inner_upload
            and not _same(inner_base[name], inner_upload[name])
        ]
    return found


def vocabulary_size(config: Mapping[str, object]) -> int | None:
    """The number of tokens a config states, nested `text_config` included."""
    inner = config.get("text_config")
    for part in (config, inner if isinstance(inner, dict) else {}):
        size = part.get("vocab_size")
        if isinstance(size, int) and not isinstance(size, bool):
            return size
    return None


def quantization_difference(
    base: Mapping[str, object], upload: Mapping[str, object]
) -> tuple[str, str | None] | None:
    """(upload's quantization, base's) in words when the upload says that it is quantized and the base not alike."""
    mine, theirs = upload.get(QUANTIZATION), base.get(QUANTIZATION)
    if mine is None:
        return None
    if isinstance(mine, dict) and isinstance(theirs, dict):
        # Libraries write more members from release to release; what both state must agree.
        both = mine.keys() & theirs.keys()
        if "quant_method" in both and all(_same(mine[name], theirs[name]) for name in both):
            return None
    return _quantization(mine), None if theirs is None else _quantization(theirs)


def _quantization(value: object) -> str:
    if not isinstance(value, dict):
        return shown(repr(value))
    words = [str(value.get("quant_method", "an unnamed method"))]
    words += [f"{name}={value[name]!r}" for name in ("bits", "fmt", "group_size") if name in value]
    return shown(" ".join(words))


def _same(left: object, right: object) -> bool:
    """Equal as JSON: 1 and 1.0 are, 1 and true or "1" are not."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(left[k], right[k]) for k in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    return left == right
