"""The verdict on an upload before its bytes are fetched: config, index and headers against the architecture. Pure."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from weighbridge.errors import InvalidError
from weighbridge.weights.config import (
    CONFIG_FILE,
    config_differences,
    parse_config,
    quantization_difference,
    vocabulary_size,
)
from weighbridge.weights.shard_index import (
    Problem,
    index_problems,
    missing_files,
    parse_index,
    write_index,
)
from weighbridge.weights.tensors import (
    DIFFERENCES_SHOWN,
    Mismatch,
    TableDifference,
    TensorSpec,
    compare_tables,
    size_bytes,
)

SINGLE_FILE = "model.safetensors"


@dataclass(frozen=True, slots=True)
class Wish:
    """What weights of an architecture must be: its tensors, and the base's config.json."""

    arch_id: str
    tensors: Sequence[TensorSpec]
    config: bytes


@dataclass(frozen=True, slots=True)
class Headers:
    """A folder as far as its small files and headers tell it. A header that could not be read is its error."""

    config: bytes | None
    index: bytes | None
    tensors: Mapping[str, Sequence[TensorSpec] | InvalidError]

    def readable(self) -> Mapping[str, Sequence[TensorSpec]]:
        return {
            name: specs
            for name, specs in self.tensors.items()
            if not isinstance(specs, InvalidError)
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """All that is wrong with an upload, gravest first; `index` is the one to publish when nothing is."""

    problems: Sequence[Problem]
    index: bytes | None

    def require(self) -> None:
        """InvalidError with the first problem's code and every problem's message."""
        if self.problems:
            message = " ".join(problem.message for problem in self.problems)
            raise InvalidError(message, code=self.problems[0].code)


def judge(wish: Wish, upload: Headers) -> Verdict:
    """Hold a folder against an architecture and report everything that is wrong at once (W10).

    Codes, in this order: BAD_CONFIG, WRONG_CONFIG, UNSUPPORTED_QUANTIZATION, BAD_INDEX, MISSING_SHARD,
    SURPLUS_SHARD, ST_…, WRONG_VOCABULARY, WRONG_TENSORS.
    """
    base, files = parse_config(wish.config), upload.readable()
    config, problems = _config(wish, base, upload.config)
    weight_map, disagreements = _index(upload, files)
    problems += disagreements
    problems += _headers(upload.tensors)
    difference = compare_tables(wish.tensors, files)
    unread = _unread(upload, weight_map)
    if unread is None:
        difference = replace(difference, missing=())
    elif unread:
        difference = replace(
            difference, missing=[name for name in difference.missing if name not in unread]
        )
    vocabulary, difference = _split_vocabulary(difference, vocabulary_size(base))
    problems += _vocabulary(wish, base, config, vocabulary)
    problems += _tensors(wish, difference)
    return Verdict(tuple(problems), None if problems else _published_index(files))


def _config(
    wish: Wish, base: Mapping[str, object], content: bytes | None
) -> tuple[Mapping[str, object], list[Problem]]:
    if content is None:
        return {}, []
    try:
        config = parse_config(content)
    except InvalidError as error:
        return {}, [Problem(error.code, error.message)]
    problems = []
    if differences := config_differences(base, config):
        message = (
            f"{CONFIG_FILE} is not that of {wish.arch_id}: {'; '.join(differences)}. "
            "Upload weights of this architecture, or name another one."
        )
        problems.append(Problem("WRONG_CONFIG", message, len(differences)))
    if difference := quantization_difference(base, config):
        mine, theirs = difference
        message = (
            f"{CONFIG_FILE} says that the weights are quantized ({mine}); {wish.arch_id} takes "
            f"{'unquantized weights' if theirs is None else f'those quantized with {theirs}'}. "
            "Save the model without quantization, or ask the operator for an architecture that has it."
        )
        problems.append(Problem("UNSUPPORTED_QUANTIZATION", message))
    return config, problems


def _index(
    upload: Headers, files: Mapping[str, Sequence[TensorSpec]]
) -> tuple[Mapping[str, str] | None, Sequence[Problem]]:
    """The index's weight_map, and what is wrong between it and the files."""
    if upload.index is None:
        return None, []
    try:
        weight_map = parse_index(upload.index)
    except InvalidError as error:
        return None, [Problem(error.code, error.message)]
    return weight_map, index_problems(weight_map, list(upload.tensors), files)


def _headers(tensors: Mapping[str, Sequence[TensorSpec] | InvalidError]) -> Iterator[Problem]:
    """One problem for each kind of header fault, with the files that have it."""
    faults: dict[str, list[str]] = defaultdict(list)
    for error in tensors.values():
        if isinstance(error, InvalidError):
            faults[error.code].append(error.message)
    for code, messages in sorted(faults.items()):
        more = len(messages) - DIFFERENCES_SHOWN
        shown = " ".join(messages[:DIFFERENCES_SHOWN])
        yield Problem(code, f"{shown} … and {more} more." if more > 0 else shown, len(messages))


def _unread(upload: Headers, weight_map: Mapping[str, str] | None) -> frozenset[str] | None:
    """Tensors that lie in files nobody could look into; None when that cannot be told."""
    broken = {name for name, specs in upload.tensors.items() if isinstance(specs, InvalidError)}
    if weight_map is None:
        return None if broken else frozenset()
    broken |= set(missing_files(weight_map, list(upload.tensors)))
    return frozenset(name for name, file in weight_map.items() if file in broken)


def _split_vocabulary(
    difference: TableDifference, tokens: int | None
) -> tuple[Sequence[Mismatch], TableDifference]:
    """Take out the tensors whose only fault is another number of rows where the base has one per token."""
    vocabulary = [
        one
        for one in difference.wrong_shape
        if one.wished.shape[:1] == (tokens,)
        and len(one.found.shape) == len(one.wished.shape)
        and one.found.shape[1:] == one.wished.shape[1:]
    ]
    rest = [one for one in difference.wrong_shape if one not in vocabulary]
    return vocabulary, replace(difference, wrong_shape=rest)


def _vocabulary(
    wish: Wish,
    base: Mapping[str, object],
    config: Mapping[str, object],
    tensors: Sequence[Mismatch],
) -> Iterator[Problem]:
    wished, stated = vocabulary_size(base), vocabulary_size(config)
    evidence = [f"{one.found.name} has {one.found.shape[0]} rows" for one in tensors]
    if stated is not None and wished is not None and stated != wished:
        evidence.insert(0, f"{CONFIG_FILE} states vocab_size {stated}")
    if evidence:
        shown = ", ".join(evidence[:DIFFERENCES_SHOWN])
        message = (
            f"The vocabulary is not that of {wish.arch_id}, which has {wished} tokens: {shown}. Every version is "
            "served with the architecture's own tokenizer: train without adding or removing tokens, or ask the "
            "operator to register an architecture with this tokenizer."
        )
        yield Problem("WRONG_VOCABULARY", message, len(evidence))


def _tensors(wish: Wish, difference: TableDifference) -> Iterator[Problem]:
    if not difference:
        return
    adapter = any(".lora_" in name or name.startswith("base_model.") for name in difference.extra)
    advice = (
        "This looks like a LoRA adapter: merge it into the base model and upload the merged weights."
        if adapter
        else "Upload every tensor of the base model under its own name, in its shape and dtype."
    )
    message = f"These weights are not {wish.arch_id}: {difference.describe()}. {advice}"
    yield Problem("WRONG_TENSORS", message, len(difference))


def _published_index(files: Mapping[str, Sequence[TensorSpec]]) -> bytes | None:
    """One `model.safetensors` needs none."""
    if set(files) == {SINGLE_FILE}:
        return None
    return write_index(files, sum(size_bytes(spec) for specs in files.values() for spec in specs))
