"""Decide which syncs to claim, and which objects of a listing are the weights. Pure."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from weighbridge.errors import InvalidError
from weighbridge.ingest.model import ListedObject, OpenSync, S3Prefix
from weighbridge.weights.config import CONFIG_BYTES_MAX, CONFIG_FILE
from weighbridge.weights.shard_index import INDEX_BYTES_MAX, INDEX_FILE
from weighbridge.weights.strict_json import shown

SYNCS_PER_ORG_MAX = 2
TENSOR_SUFFIX = ".safetensors"

_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,180}")
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".npz")
_OPERATORS_FILES = re.compile(
    r"tokenizer.*|special_tokens_map\.json|added_tokens\.json|vocab\..*|merges\.txt|generation_config\.json|chat_template.*"
)
_COMPARED_BYTES_MAX: Mapping[str, int] = {
    CONFIG_FILE: CONFIG_BYTES_MAX,
    INDEX_FILE: INDEX_BYTES_MAX,
}


def choose(open_syncs: Sequence[OpenSync], running: frozenset[str], node_max: int) -> Sequence[str]:
    """The versions to claim now, oldest first: at most `node_max` here, SYNCS_PER_ORG_MAX per org anywhere."""
    of_org = Counter(sync.org_id for sync in open_syncs if sync.held or sync.version_id in running)
    free, chosen = node_max - len(running), list[str]()
    for sync in open_syncs:
        if sync.held or sync.version_id in running or sync.cancelled:
            continue
        if len(chosen) < free and of_org[sync.org_id] < SYNCS_PER_ORG_MAX:
            chosen.append(sync.version_id)
            of_org[sync.org_id] += 1
    return chosen


@dataclass(frozen=True, slots=True)
class Selection:
    """`tensors` become files of the version; `compared` are read and held against the base, never published.

    `ignored` gives a reason for each object that is neither, in words safe to log.
    """

    tensors: Mapping[str, ListedObject]
    compared: Mapping[str, ListedObject]
    ignored: Mapping[str, str]


def select(source: S3Prefix, listing: Sequence[ListedObject], folders: Sequence[str]) -> Selection:
    """Sort a folder's objects by an allowlist. InvalidError EMPTY, PICKLE_ONLY, BAD_NAME, NAME_COLLISION, TOO_LARGE."""
    tensors: dict[str, ListedObject] = {}
    compared: dict[str, ListedObject] = {}
    ignored = {shown(folder): "a folder inside the prefix" for folder in folders}
    pickles = 0
    for item in listing:
        name = item.key.removeprefix(source.folder)
        if name.endswith(TENSOR_SUFFIX):
            tensors[_safe(name, item)] = item
        elif name in _COMPARED_BYTES_MAX:
            if item.size_bytes > _COMPARED_BYTES_MAX[name]:
                raise InvalidError(
                    f"{item.key} has {item.size_bytes} bytes; at most {_COMPARED_BYTES_MAX[name]} are read.",
                    code="TOO_LARGE",
                )
            compared[name] = item
        else:
            pickles += name.endswith(_PICKLE_SUFFIXES)
            ignored[shown(name)] = _reason(name)
    _refuse_collisions(tensors)
    if not tensors:
        _refuse_empty(source, len(listing), len(folders), pickles)
    return Selection(tensors, compared, ignored)


def _safe(name: str, item: ListedObject) -> str:
    # A tensor file is never skipped in silence: what is left would be weights with a hole.
    if not _SAFE_NAME.fullmatch(name):
        raise InvalidError(
            f"The object {shown(item.key, 300)} has a name that is not taken: use letters, digits, '.', '_' and '-'.",
            code="BAD_NAME",
        )
    return name


def _refuse_collisions(tensors: Mapping[str, ListedObject]) -> None:
    folded = Counter(name.casefold() for name in tensors)
    if clashing := sorted(name for name in tensors if folded[name.casefold()] > 1):
        raise InvalidError(
            f"These names differ only in upper and lower case: {', '.join(clashing[:20])}.",
            code="NAME_COLLISION",
        )


def _refuse_empty(source: S3Prefix, objects: int, folders: int, pickles: int) -> None:
    if pickles:
        raise InvalidError(
            f"{source} holds its weights in {pickles} pickle files (such as pytorch_model.bin), which can run code "
            "and are never read. Save the model again as safetensors.",
            code="PICKLE_ONLY",
        )
    if objects or folders:
        raise InvalidError(
            f"{source} holds {objects} objects and {folders} folders, but no *{TENSOR_SUFFIX} file directly in it. "
            "Name the folder that has the weights.",
            code="EMPTY",
        )
    raise InvalidError(
        f"There is nothing under {source}/. weight_uri must name the folder, not a file in it; check its spelling.",
        code="EMPTY",
    )


def _reason(name: str) -> str:
    if name.endswith(_PICKLE_SUFFIXES):
        return "a pickle can run code"
    if _OPERATORS_FILES.fullmatch(name):
        return "the architecture brings its own"
    return "not weights" if name else "a folder marker"
