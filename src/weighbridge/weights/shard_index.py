"""The index of sharded weights: a customer's is checked against the files, the published one is written by us."""

from collections.abc import Mapping, Sequence

import msgspec

from weighbridge.errors import InvalidError
from weighbridge.weights.safetensors import TENSORS_MAX
from weighbridge.weights.strict_json import JsonLimits, parse_object, shown
from weighbridge.weights.tensors import TensorSpec

INDEX_FILE = "model.safetensors.index.json"
INDEX_BYTES_MAX = 64 * 1024 * 1024
NAMES_SHOWN = 20
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


def check_index_files(weight_map: Mapping[str, str], present: Sequence[str]) -> None:
    """Every file the index names is there, and no other: MISSING_SHARD, SURPLUS_SHARD."""
    named = set(weight_map.values())
    if missing := sorted(named - set(present)):
        raise InvalidError(
            f"{INDEX_FILE} names {len(missing)} files that are not there: {_some(missing)}. "
            "Upload them beside the index.",
            code="MISSING_SHARD",
        )
    if surplus := sorted(set(present) - named):
        raise InvalidError(
            f"{len(surplus)} tensor files are not named by {INDEX_FILE}: {_some(surplus)}. "
            "Remove them, or upload the index that belongs to these weights.",
            code="SURPLUS_SHARD",
        )


def check_index_tensors(
    weight_map: Mapping[str, str], files: Mapping[str, Sequence[TensorSpec]]
) -> None:
    """The index says of each tensor the file that holds it: BAD_INDEX otherwise."""
    held = {spec.name: name for name, specs in files.items() for spec in specs}
    wrong = sorted(
        name for name in held.keys() | weight_map.keys() if held.get(name) != weight_map.get(name)
    )
    if wrong:
        raise InvalidError(
            f"{INDEX_FILE} and the files disagree about {len(wrong)} tensors: {_some(wrong)}. "
            "Save the model again so that index and files belong together.",
            code="BAD_INDEX",
        )


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
