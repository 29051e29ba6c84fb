"""What tokenizer.json and its companions say of a byte-level BPE tokenizer, in GGUF's terms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from weighbridge.engines.gguf.documents import CONFIG_BYTES_MAX, read_json
from weighbridge.errors import InvalidError

TOKENIZER_BYTES_MAX = 256 * 1024 * 1024

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LINES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
LLAMA3_SPLIT = rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_SIGNS}|{_LINES}"
QWEN2_SPLIT = rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}|{_SIGNS}|{_LINES}"
DIGITS_SPLIT = "digits"
GPT2_SPLIT = "gpt-2"
"""Stand for the built-in steps Digits(individual_digits) and ByteLevel(use_regex)."""

PRE_TOKENIZERS: Mapping[tuple[tuple[str, ...], bool], str] = {
    ((GPT2_SPLIT,), False): "gpt-2",
    ((DIGITS_SPLIT, GPT2_SPLIT), False): "smollm",
    ((QWEN2_SPLIT,), False): "qwen2",
    ((LLAMA3_SPLIT,), False): "smaug-bpe",
    ((LLAMA3_SPLIT,), True): "llama-bpe",
}
"""llama.cpp's name for (how text is split before the merges, whether whole words skip the merges).

llama.cpp knows pre-tokenizers by name only; the same split comes under two names because
`llama-bpe` also looks whole words up first, as `ignore_merges` asks. Each was held against the
library `tokenizers` on 508 texts in many scripts. Mistral's `tekken` failed that: llama.cpp splits
combining marks otherwise.
"""


class TokenKind(IntEnum):
    """GGUF's `tokenizer.ggml.token_type`."""

    NORMAL = 1
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """`stop_ids` end an answer; the first is the end-of-sequence token."""

    pre_tokenizer: str
    tokens: Sequence[str]
    kinds: Sequence[TokenKind]
    merges: Sequence[str]
    begin_id: int | None
    stop_ids: Sequence[int]
    pad_id: int | None
    adds_begin: bool
    chat_template: str | None


def read_vocabulary(folder: Path, vocab: int) -> Vocabulary:
    """The tokenizer of a model whose embedding has `vocab` rows.

    Raises InvalidError for anything but a byte-level BPE that llama.cpp splits in the same way.
    """
    tokenizer = read_json(folder / "tokenizer.json", TOKENIZER_BYTES_MAX)
    settings = _optional_json(folder / "tokenizer_config.json")
    model = _model(tokenizer)
    tokens, kinds = _tokens(tokenizer, model, vocab)
    ids = {token: number for number, token in enumerate(tokens)}
    generation = _optional_json(folder / "generation_config.json")
    config = read_json(folder / "config.json", CONFIG_BYTES_MAX)

    def special(name: str) -> Sequence[int]:
        """From the three files that may name it; generation_config wins, as in transformers."""
        for source in (generation, config):
            if found := _ids(source.get(f"{name}_token_id"), vocab):
                return found
        text = _text(settings.get(f"{name}_token"))
        return [ids[text]] if text in ids else []

    begin = special("bos")
    return Vocabulary(
        pre_tokenizer=_pre_tokenizer(tokenizer, model),
        tokens=tokens,
        kinds=kinds,
        merges=_merges(model),
        begin_id=begin[0] if begin else None,
        stop_ids=special("eos"),
        pad_id=next(iter(special("pad")), None),
        adds_begin=bool(begin)
        and _first_added(tokenizer.get("post_processor")) == tokens[begin[0]],
        chat_template=_chat_template(folder, settings),
    )


def _model(tokenizer: Mapping[str, object]) -> Mapping[str, object]:
    model = tokenizer.get("model")
    if not isinstance(model, dict) or model.get("type") != "BPE" or model.get("byte_fallback"):
        kind = model.get("type") if isinstance(model, dict) else None
        raise InvalidError(
            f"tokenizer.json: a {kind} tokenizer is not supported, only byte-level BPE. "
            "Use another engine for it, such as vllm."
        )
    normalizer = tokenizer.get("normalizer")
    # llama.cpp does not normalize; NFC leaves text as people type it alone.
    if normalizer is not None and not _is(normalizer, "NFC"):
        raise InvalidError(f"tokenizer.json: normalizer {normalizer!r} is not supported, only NFC")
    return model


def _pre_tokenizer(tokenizer: Mapping[str, object], model: Mapping[str, object]) -> str:
    splits = tuple(_splits(tokenizer.get("pre_tokenizer")))
    name = PRE_TOKENIZERS.get((splits, model.get("ignore_merges") is True))
    if name is None:
        raise InvalidError(
            f"tokenizer.json: pre-tokenizer {splits!r} is not one that llama.cpp is known to split "
            f"alike; supported are {', '.join(sorted(set(PRE_TOKENIZERS.values())))}"
        )
    return name


def _splits(step: object) -> list[str]:
    """The pre-tokenizer flattened to what splits text; byte mapping itself splits nothing."""
    splits: list[str] = []
    match step:
        case {"type": "Sequence", "pretokenizers": list(steps)}:
            splits = [split for inner in steps for split in _splits(inner)]
        case {"type": "Split", "pattern": {"Regex": str(regex)}, "behavior": "Isolated"}:
            splits = [regex]
        case {"type": "Digits", "individual_digits": True}:
            splits = [DIGITS_SPLIT]
        case {"type": "ByteLevel", "add_prefix_space": True}:
            splits = ["ByteLevel(add_prefix_space)"]
        case {"type": "ByteLevel", "use_regex": False}:
            pass
        case {"type": "ByteLevel"}:
            splits = [GPT2_SPLIT]
        case other:
            splits = [repr(other)]
    return splits


def _tokens(
    tokenizer: Mapping[str, object], model: Mapping[str, object], vocab: int
) -> tuple[Sequence[str], Sequence[TokenKind]]:
    known = model.get("vocab")
    if not isinstance(known, dict):
        raise InvalidError("tokenizer.json: the model has no vocab")
    tokens = [f"[UNUSED{number}]" for number in range(vocab)]
    kinds = [TokenKind.UNUSED] * vocab

    def put(token: object, number: object, kind: TokenKind) -> None:
        if not isinstance(token, str) or not isinstance(number, int) or not 0 <= number < vocab:
            raise InvalidError(
                f"tokenizer.json: token {token!r} has id {number!r}, but the model has {vocab} ids"
            )
        tokens[number], kinds[number] = token, kind

    for token, number in known.items():
        put(token, number, TokenKind.NORMAL)
    added = tokenizer.get("added_tokens")
    for entry in added if isinstance(added, list) else []:
        if not isinstance(entry, dict):
            raise InvalidError("tokenizer.json: an added token is not an object")
        kind = TokenKind.CONTROL if entry.get("special") else TokenKind.USER_DEFINED
        put(entry.get("content"), entry.get("id"), kind)
    return tokens, kinds


def _merges(model: Mapping[str, object]) -> Sequence[str]:
    """Older files write a merge as "a b", newer ones as ["a", "b"]."""
    merges = model.get("merges")
    found: list[str] = []
    for merge in merges if isinstance(merges, list) else []:
        match merge:
            case str():
                found.append(merge)
            case [str(left), str(right)]:
                found.append(f"{left} {right}")
            case other:
                raise InvalidError(f"tokenizer.json: {other!r} is not a merge")
    if not found:
        raise InvalidError("tokenizer.json: the model has no merges")
    return found


def _first_added(step: object) -> str | None:
    """The special token that the post-processor puts before every text."""
    match step:
        case {"type": "Sequence", "processors": list(steps)}:
            return next((found for inner in steps if (found := _first_added(inner))), None)
        case {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": str(token)}}, *_]}:
            return token
        case _:
            return None


def _chat_template(folder: Path, settings: Mapping[str, object]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.exists():
        if path.stat().st_size > CONFIG_BYTES_MAX:
            raise InvalidError(f"{path.name} is larger than {CONFIG_BYTES_MAX} bytes")
        return path.read_text(encoding="utf-8")
    match settings.get("chat_template"):
        case str(template):
            return template
        case list(named):
            return next(
                (
                    entry["template"]
                    for entry in named
                    if isinstance(entry, dict) and entry.get("name") == "default"
                ),
                None,
            )
        case _:
            return None


def _optional_json(path: Path) -> Mapping[str, object]:
    return read_json(path, CONFIG_BYTES_MAX) if path.exists() else {}


def _ids(value: object, vocab: int) -> Sequence[int]:
    numbers = value if isinstance(value, list) else [value]
    return [number for number in numbers if isinstance(number, int) and 0 <= number < vocab]


def _text(value: object) -> str | None:
    """A special token is written as its text or as an object that holds it."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _is(step: object, kind: str) -> bool:
    return isinstance(step, dict) and step.get("type") == kind
