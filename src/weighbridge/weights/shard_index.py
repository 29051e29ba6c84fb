"""The index of sharded weights: a customer's is checked against the files, the published one is written by us."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from weighbridge.errors import InvalidError
from weighbridge.weights.safetensors import TENSORS_MAX
from weighbridge.weights.strict_json import JsonLimits, parse_object, shown
from weighbridge.weights.tensors import TensorSpec

INDEX_FILE = "model.safetensors.index.json"
INDEX_BYTES_MAX = 64 * 1024 * 1024
NAMES_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Problem:
    """One reason to refuse an upload; `count` says how many things have it, the message names the first of them."""

    code: str
    message: str
    count: int = 1


_LIMITS = JsonLimits(bytes_max=INDEX_BYTES_MAX, nodes_max=16 * TENSORS_MAX)


def parse_index(content: bytes) -> Mapping[str, str]:
    """`weight_map`: tensor name to file name. InvalidError BAD_INDEX; file names are still untrusted text."""
    document = parse_object(content, what=INDEX_FILE, code="BAD_INDEX", limits=_LIMITS)
    weight_map = document.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InvalidError(f"{INDEX_FILE} has no weight_map.", code="BAD_INDEX")
    for tensor, file in weight_map.items():
        if not isinstance(file, str):
            raise InvalidError(
                f"{INDEX_FILE} names no file for the tensor {shown(tensor)}.", code="BAD_INDEX"
            )
    return weight_map


def missing_files(weight_map: Mapping[str, str], present: Sequence[str]) -> Sequence[str]:
    """Files that the index names and that are not there."""
    return sorted(set(weight_map.values()) - set(present))


def index_problems(
    weight_map: Mapping[str, str],
    present: Sequence[str],
    files: Mapping[str, Sequence[TensorSpec]],
) -> Sequence[Problem]:
    """What the index and the files disagree about: BAD_INDEX, MISSING_SHARD, SURPLUS_SHARD.

    `files` are those of `present` that could be read; the tensors of the others are those files' problem.
    """
    named = set(weight_map.values())
    known = {tensor: file for tensor, file in weight_map.items() if file in files}
    held = {spec.name: name for name in files if name in named for spec in files[name]}
    problems = []
    if wrong := sorted(name for name in held.keys() | known if held.get(name) != known.get(name)):
        message = (
            f"{INDEX_FILE} and the files disagree about {len(wrong)} tensors: {_some(wrong)}. "
            "Save the model again so that index and files belong together."
        )
        problems.append(Problem("BAD_INDEX", message, len(wrong)))
    if missing := missing_files(weight_map, present):
        message = (
            f"{INDEX_FILE} names {len(missing)} files that are not there: {_some(missing)}. "
            "Upload them beside the index."
        )
        problems.append(Problem("MISSING_SHARD", message, len(missing)))
    if surplus := sorted(set(present) - named):
        message = (
            f"{len(surplus)} tensor files are not named by {INDEX_FILE}: {_some(surplus)}. "
            "Remove them, or upload the index that belongs to these weights."
        )
        problems.append(Problem("SURPLUS_SHARD", message, len(surplus)))
    return problems


def write_index(files: Mapping[str, Sequence[TensorSpec]], total_bytes: int) -> bytes:
    """The index published with sharded weights; equal files give equal bytes."""
    weight_map = {spec.name: name for name, specs in files.items() for spec in specs}
    document = {
        "metadata": {"total_size": total_bytes},
        "weight_map": dict(sorted(weight_map.items())),
    }
    return msgspec.json.encode(document)


def _some(names: Sequence[str]) -> str:
    more = ", …" if len(names) > NAMES_SHOWN else ""
    return ", ".join(shown(name) for name in names[:NAMES_SHOWN]) + more
