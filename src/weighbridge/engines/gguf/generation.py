"""What a model's own files say of how it is asked when a request does not say."""

from dataclasses import dataclass
from pathlib import Path

from weighbridge.engines.gguf.documents import CONFIG_BYTES_MAX, read_json

CONTEXT_TOKENS_DEFAULT = 4096
"""Per slot, where the architecture does not say: the cache for keys and values grows with it."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """The defaults of OpenAI's API, which are not llama.cpp's; `top_k` 0 means all tokens."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0


def read_sampling(folder: Path) -> Sampling:
    """generation_config.json over the defaults; `do_sample: false` is temperature 0."""
    path = folder / "generation_config.json"
    config = read_json(path, CONFIG_BYTES_MAX) if path.exists() else {}

    def number(key: str, default: float) -> float:
        value = config.get(key)
        return float(value) if isinstance(value, int | float) else default

    greedy = config.get("do_sample") is False and "temperature" not in config
    default = Sampling()
    return Sampling(
        temperature=0.0 if greedy else number("temperature", default.temperature),
        top_p=number("top_p", default.top_p),
        top_k=int(number("top_k", default.top_k)),
        min_p=number("min_p", default.min_p),
    )


def context_tokens(folder: Path) -> int:
    """The context of one slot where the architecture sets none."""
    known = read_json(folder / "config.json", CONFIG_BYTES_MAX).get("max_position_embeddings")
    return min(known, CONTEXT_TOKENS_DEFAULT) if isinstance(known, int) else CONTEXT_TOKENS_DEFAULT
