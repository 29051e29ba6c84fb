"""The verdict on an upload before its bytes are fetched: config, index and headers against the architecture. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from weighbridge.errors import InvalidError
from weighbridge.weights.config import config_differences, parse_config
from weighbridge.weights.shard_index import (
    check_index_files,
    check_index_tensors,
    parse_index,
    write_index,
)
from weighbridge.weights.tensors import DTYPE_BITS, TensorSpec, compare_tables

SINGLE_FILE = "model.safetensors"


@dataclass(frozen=True, slots=True)
class Wish:
    """What weights of an architecture must be: its tensors, and the base's config.json."""

    arch_id: str
    tensors: Sequence[TensorSpec]
    config: bytes


def check_files(
    wish: Wish, present: Sequence[str], config: bytes | None, index: bytes | None
) -> Mapping[str, str] | None:
    """First look, without tensors: config.json and the index's file list. Returns the index's weight_map, if any.

    InvalidError BAD_CONFIG, WRONG_CONFIG, BAD_INDEX, MISSING_SHARD, SURPLUS_SHARD.
    """
    if config is not None:
        differences = config_differences(parse_config(wish.config), parse_config(config))
        if differences:
            raise InvalidError(
                f"config.json is not that of {wish.arch_id}: {'; '.join(differences)}. "
                "Upload weights of this architecture, or name another one.",
                code="WRONG_CONFIG",
            )
    if index is None:
        return None
    weight_map = parse_index(index)
    check_index_files(weight_map, present)
    return weight_map


def check_tensors(
    wish: Wish, files: Mapping[str, Sequence[TensorSpec]], weight_map: Mapping[str, str] | None
) -> bytes | None:
    """Second look: the files' tensors (W10). Returns the index to publish; one `model.safetensors` needs none.

    InvalidError WRONG_TENSORS, BAD_INDEX.
    """
    difference = compare_tables(wish.tensors, files)
    if difference:
        adapter = any(
            ".lora_" in name or name.startswith("base_model.") for name in difference.extra
        )
        advice = (
            "This looks like a LoRA adapter: merge it into the base model and upload the merged weights."
            if adapter
            else "Upload every tensor of the base model under its own name, in its shape and dtype."
        )
        raise InvalidError(
            f"These weights are not {wish.arch_id}: {difference.describe()}. {advice}",
            code="WRONG_TENSORS",
        )
    if weight_map is not None:
        check_index_tensors(weight_map, files)
    if set(files) == {SINGLE_FILE}:
        return None
    return write_index(
        files, sum(_size_bits(spec) for specs in files.values() for spec in specs) // 8
    )


def _size_bits(spec: TensorSpec) -> int:
    bits = DTYPE_BITS[spec.dtype]
    for dimension in spec.shape:
        bits *= dimension
    return bits
