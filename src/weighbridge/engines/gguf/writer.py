"""Convert a version directory (safetensors, config, tokenizer) into one GGUF file for llama.cpp.

Values are copied as they are; only the rows of the query and key projections change their order,
where llama.cpp pairs rotary dimensions differently from transformers.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from weighbridge.engines.gguf.documents import CONFIG_BYTES_MAX, read_json
from weighbridge.engines.gguf.shape import Family, ModelShape, parse_shape, rope_divisors
from weighbridge.engines.gguf.tensors import Raw, StoredTensor, read_tensors
from weighbridge.engines.gguf.tokenizer import (
    TokenKind,
    Vocabulary,
    read_vocabulary,
)
from weighbridge.errors import InvalidError

GGUF_ARCH: Mapping[Family, str] = {
    Family.LLAMA: "llama",
    Family.MISTRAL: "llama",
    Family.QWEN2: "qwen2",
    Family.QWEN3: "qwen3",
}

_TYPES: Mapping[str, gguf.GGMLQuantizationType] = {
    "F32": gguf.GGMLQuantizationType.F32,
    "F16": gguf.GGMLQuantizationType.F16,
    "BF16": gguf.GGMLQuantizationType.BF16,
}
_OUTER = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@dataclass(frozen=True, slots=True)
class _Output:
    name: str
    shape: tuple[int, ...]
    dtype: str
    values: Callable[[], Raw]


def convert(folder: Path, target: Path, name: str, dtype: str = "auto") -> None:
    """Write `target`, which is complete only when this returns.

    Raises InvalidError for what llama.cpp cannot serve exactly: another architecture, another kind
    of tokenizer, a missing or surplus tensor.
    """
    shape = parse_shape(read_json(folder / "config.json", CONFIG_BYTES_MAX))
    vocabulary = read_vocabulary(folder, shape.vocab)
    outputs = list(_outputs(shape, read_tensors(folder), widen=dtype == "float32"))
    writer = gguf.GGUFWriter(target, GGUF_ARCH[shape.family])
    _add_shape(writer, shape, name)
    _add_vocabulary(writer, vocabulary)
    for output in outputs:
        writer.add_tensor_info(
            output.name,
            output.shape,
            np.dtype(np.float32),  # not looked at: raw_dtype says what it is
            _size_bytes(output),
            raw_dtype=_TYPES[output.dtype],
        )
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for output in outputs:
            writer.write_tensor_data(output.values())
        writer.flush()
    finally:
        writer.close()


def _outputs(
    shape: ModelShape, tensors: Mapping[str, StoredTensor], *, widen: bool
) -> Iterator[_Output]:
    sources = {_gguf_name(source, shape): source for source in tensors}
    if missing := _required(shape) - sources.keys():
        raise InvalidError(f"the tensor that becomes {min(missing)} is missing")
    for name, source in sorted(sources.items()):
        # Tied embeddings may still carry a copy of the head; llama.cpp uses the embedding.
        if source != "lm_head.weight" or not shape.tied_embeddings:
            yield _output(name, tensors[source], shape, widen=widen)
    if divisors := rope_divisors(shape):
        factors = np.array(divisors, dtype=np.float32)
        yield _Output("rope_freqs.weight", factors.shape, "F32", lambda: factors)


def _required(shape: ModelShape) -> set[str]:
    parts = set(_LAYER.values())
    if shape.family is not Family.QWEN3:
        parts -= {"attn_q_norm", "attn_k_norm"}
    outer = set(_OUTER.values())
    if shape.tied_embeddings:
        outer -= {"output.weight"}
    return outer | {f"blk.{layer}.{part}.weight" for layer in range(shape.layers) for part in parts}


def _gguf_name(source: str, shape: ModelShape) -> str:
    if source in _OUTER:
        return _OUTER[source]
    match source.split("."):
        case ["model", "layers", number, *part, "weight" | "bias" as kind]:
            target = _LAYER.get(".".join(part))
            if target and number in map(str, range(shape.layers)):
                return f"blk.{number}.{target}.{kind}"
    raise InvalidError(f"tensor {source} is not part of {shape.family} as llamacpp serves it")


def _output(name: str, tensor: StoredTensor, shape: ModelShape, *, widen: bool) -> _Output:
    # llama.cpp adds and multiplies vectors (norms, biases) in float32 only.
    dtype = "F32" if widen or len(tensor.shape) == 1 else tensor.dtype
    heads = _rotary_heads(name, shape)
    if heads and tensor.shape[0] != heads * shape.head_size:
        raise InvalidError(f"tensor {tensor.name} has shape {tensor.shape}, not {heads} heads")

    def values() -> Raw:
        raw: Raw = tensor.float32() if dtype == "F32" else tensor.raw()
        return _paired_rows(raw, heads) if heads else raw

    return _Output(name, tensor.shape, dtype, values)


def _rotary_heads(name: str, shape: ModelShape) -> int:
    """How many heads a tensor's rows must be regrouped by; 0 for all that stay as they are.

    Only llama.cpp's `llama` rotates neighbouring pairs (0, 1), (2, 3)...; transformers, and
    llama.cpp's other architectures, rotate (0, n/2), (1, n/2 + 1)...
    """
    if GGUF_ARCH[shape.family] != "llama":
        return 0
    return {"attn_q": shape.heads, "attn_k": shape.kv_heads}.get(name.split(".")[-2], 0)


def _paired_rows(values: Raw, heads: int) -> Raw:
    """Rows of each head from (first halves, second halves) to pairs: 0 1 2 3 becomes 0 2 1 3."""
    rows = values.shape[0] // heads // 2
    split: NDArray[np.generic] = values.reshape(heads, 2, rows, *values.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(values.shape)


def _size_bytes(output: _Output) -> int:
    items = int(np.prod(output.shape))
    return items * (4 if output.dtype == "F32" else 2)


def _add_shape(writer: gguf.GGUFWriter, shape: ModelShape, name: str) -> None:
    writer.add_name(name)
    writer.add_vocab_size(shape.vocab)
    writer.add_context_length(shape.context_tokens)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_block_count(shape.layers)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_size)
    writer.add_value_length(shape.head_size)
    writer.add_rope_dimension_count(shape.head_size)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(shape.norm_epsilon)


def _add_vocabulary(writer: gguf.GGUFWriter, vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pre_tokenizer)
    writer.add_token_list(list(vocabulary.tokens))
    writer.add_token_types([TokenKind(kind).value for kind in vocabulary.kinds])
    writer.add_token_merges(list(vocabulary.merges))
    writer.add_add_bos_token(vocabulary.adds_begin)
    writer.add_add_eos_token(False)
    if vocabulary.begin_id is not None:
        writer.add_bos_token_id(vocabulary.begin_id)
    if vocabulary.stop_ids:
        writer.add_eos_token_id(vocabulary.stop_ids[0])
        # A chat model may end its turn with another token than a document.
        writer.add_eot_token_id(vocabulary.stop_ids[-1])
    if vocabulary.pad_id is not None:
        writer.add_pad_token_id(vocabulary.pad_id)
    if vocabulary.chat_template is not None:
        writer.add_chat_template(vocabulary.chat_template)
