import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from weighbridge.engines.gguf.tokenizer import TokenKind, read_vocabulary
from weighbridge.errors import InvalidError

MODELS = Path(__file__).parents[2] / "models"
# As published in the tokenizer.json of Llama 3, Qwen 2 and Mistral Nemo.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
Folder = Callable[..., Path]


def split(regex: str, behavior: str = "Isolated") -> dict:
    one = {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": False}
    return {"type": "Sequence", "pretokenizers": [one, BYTES]}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A copy of llama-v1's tokenizer with members of its files replaced."""

    def make(file: str = "tokenizer.json", **changes: object) -> Path:
        if not (tmp_path / "config.json").exists():
            for source in (MODELS / "llama-v1").glob("*"):
                if source.suffix in {".json", ".jinja"}:
                    shutil.copy(source, tmp_path)
        content = json.loads((tmp_path / file).read_text(encoding="utf-8"))
        for key, value in changes.items():
            content[key] = {**content[key], **value} if key == "model" else value
        (tmp_path / file).write_text(json.dumps(content), encoding="utf-8")
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("steps", "ignore_merges", "name"),
    [
        ({"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}, False, "gpt-2"),
        ({"type": "ByteLevel", "add_prefix_space": False}, False, "gpt-2"),
        (split(LLAMA3), True, "llama-bpe"),
        (split(LLAMA3), False, "smaug-bpe"),
        (split(QWEN2), False, "qwen2"),
        (
            {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Digits", "individual_digits": True},
                    {"type": "ByteLevel", "add_prefix_space": False},
                ],
            },
            False,
            "smollm",
        ),
    ],
)
def test_the_pre_tokenizer_is_named_by_what_it_splits(folder, steps, ignore_merges, name):
    path = folder(pre_tokenizer=steps, model={"ignore_merges": ignore_merges})
    assert read_vocabulary(path, 768).pre_tokenizer == name


@pytest.mark.parametrize(
    "steps",
    [
        None,
        {"type": "Metaspace"},
        split(r"\s+"),
        split(TEKKEN),
        split(LLAMA3, behavior="Removed"),
        {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True},
    ],
)
def test_a_pre_tokenizer_that_llama_cpp_may_split_otherwise_is_refused(folder, steps):
    with pytest.raises(InvalidError, match=r"supported are gpt-2, llama-bpe"):
        read_vocabulary(folder(pre_tokenizer=steps), 768)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": {"type": "Unigram"}}, "Unigram tokenizer"),
        ({"model": {"byte_fallback": True}}, "only byte-level BPE"),
        ({"normalizer": {"type": "Lowercase"}}, "Lowercase"),
        ({"model": {"merges": []}}, "no merges"),
        ({"model": {"merges": [["a"]]}}, "not a merge"),
        ({"model": {"vocab": {"a": 900}}}, "has id 900"),
        ({"model": {"vocab": []}}, "no vocab"),
        ({"added_tokens": [{"content": "x", "id": -1}]}, "has id -1"),
    ],
)
def test_another_kind_of_tokenizer_is_refused(folder, changes, says):
    with pytest.raises(InvalidError, match=says):
        read_vocabulary(folder(**changes), 768)


def test_tokens_have_their_kinds_and_ids_beyond_the_tokenizer_are_unused(folder):
    vocabulary = read_vocabulary(folder(), 770)
    assert len(vocabulary.tokens) == len(vocabulary.kinds) == 770
    assert vocabulary.tokens[0] == "<|end|>"
    assert vocabulary.kinds[0] is TokenKind.CONTROL
    assert set(vocabulary.kinds[7:768]) == {TokenKind.NORMAL}
    assert vocabulary.kinds[768:] == [TokenKind.UNUSED] * 2
    assert (vocabulary.begin_id, vocabulary.stop_ids, vocabulary.pad_id) == (1, [0], 2)


def test_merges_are_read_in_both_forms(folder):
    pairs = read_vocabulary(folder(), 768).merges
    assert all(isinstance(merge, str) for merge in pairs)
    assert read_vocabulary(folder(model={"merges": list(pairs)}), 768).merges == pairs


def test_a_beginning_is_added_where_the_post_processor_adds_it(folder):
    assert not read_vocabulary(folder(), 768).adds_begin
    template = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|begin|>"}}]}
    steps = {"type": "Sequence", "processors": [{"type": "ByteLevel"}, template]}
    assert read_vocabulary(folder(post_processor=steps), 768).adds_begin


def test_several_stop_tokens_are_kept_in_their_order(folder):
    path = folder(file="generation_config.json", eos_token_id=[4, 0])
    assert read_vocabulary(path, 768).stop_ids == [4, 0]


def test_special_tokens_are_found_by_text_where_no_file_has_their_ids(folder):
    for file in ("generation_config.json", "config.json"):
        folder(file=file, eos_token_id=None, bos_token_id=None)
    path = folder(file="tokenizer_config.json", eos_token={"content": "<|end|>"})
    vocabulary = read_vocabulary(path, 768)
    assert (vocabulary.begin_id, vocabulary.stop_ids) == (1, [0])


def test_the_chat_template_comes_from_its_file_or_the_settings(folder):
    path = folder()
    own = (path / "chat_template.jinja").read_text(encoding="utf-8")
    assert read_vocabulary(path, 768).chat_template == own
    (path / "chat_template.jinja").unlink()
    assert read_vocabulary(path, 768).chat_template is None
    folder(file="tokenizer_config.json", chat_template="one")
    assert read_vocabulary(path, 768).chat_template == "one"
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "two"}]
    folder(file="tokenizer_config.json", chat_template=named)
    assert read_vocabulary(path, 768).chat_template == "two"
