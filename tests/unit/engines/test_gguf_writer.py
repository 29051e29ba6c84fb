import json
import multiprocessing
import shutil
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

from weighbridge.engines.gguf import cache
from weighbridge.engines.gguf.cache import cached_gguf
from weighbridge.engines.gguf.tensors import read_tensors
from weighbridge.engines.gguf.writer import convert
from weighbridge.errors import InvalidError

MODELS = Path(__file__).parents[2] / "models"


@pytest.fixture
def version(tmp_path: Path) -> Path:
    folder = tmp_path / "version"
    shutil.copytree(MODELS / "mistral-tiny", folder)
    return folder


def tensors_of(path: Path) -> dict[str, tuple[str, list[int]]]:
    return {
        tensor.name: (tensor.tensor_type.name, [int(size) for size in reversed(tensor.shape)])
        for tensor in GGUFReader(path).tensors
    }


@pytest.mark.parametrize(
    ("model", "dtype", "embedding", "norm"),
    [
        ("llama-v2", "auto", "F16", "F32"),
        ("qwen3-tiny", "auto", "BF16", "F32"),
        ("qwen3-tiny", "float32", "F32", "F32"),
        ("mistral-tiny", "auto", "F32", "F32"),
    ],
)
def test_tensors_keep_their_type_unless_widened(tmp_path, model, dtype, embedding, norm):
    convert(MODELS / model, tmp_path / "out.gguf", "a-digest", dtype)
    found = tensors_of(tmp_path / "out.gguf")
    assert found["token_embd.weight"][0] == embedding
    assert found["output_norm.weight"][0] == norm
    assert found["token_embd.weight"][1] == list(
        read_tensors(MODELS / model)["model.embed_tokens.weight"].shape
    )


def test_a_tied_model_has_no_output_tensor_and_an_untied_one_has(tmp_path: Path):
    for model in ("llama-v1", "mistral-tiny"):
        convert(MODELS / model, tmp_path / model, "a-digest")
    assert "output.weight" not in tensors_of(tmp_path / "llama-v1")
    assert "output.weight" in tensors_of(tmp_path / "mistral-tiny")


def test_rows_of_a_query_head_are_paired_for_the_llama_architecture(tmp_path: Path):
    """Rows 0 1 2 ... 11 of a head of 12 become 0 6 1 7 ... 5 11."""
    convert(MODELS / "mistral-tiny", tmp_path / "out.gguf", "a-digest")
    stored = read_tensors(MODELS / "mistral-tiny")["model.layers.1.self_attn.q_proj.weight"]
    tensors = {tensor.name: tensor for tensor in GGUFReader(tmp_path / "out.gguf").tensors}
    order = [head * 12 + row for head in range(4) for pair in range(6) for row in (pair, pair + 6)]
    written = np.asarray(tensors["blk.1.attn_q.weight"].data).reshape(stored.shape)
    assert np.array_equal(written, stored.float32()[order])


def test_the_model_is_named_by_its_digest(tmp_path: Path):
    convert(MODELS / "llama-v1", tmp_path / "out.gguf", "a-digest")
    field = GGUFReader(tmp_path / "out.gguf").get_field("general.name")
    assert field is not None
    assert field.contents() == "a-digest"


def _rename_tensor(folder: Path, old: str, new: str) -> None:
    """Same length, so that nothing else in the file moves."""
    assert len(old) == len(new)
    for path in folder.glob("*.safetensors*"):
        path.write_bytes(path.read_bytes().replace(old.encode(), new.encode()))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("layers.1.mlp.up_proj.weight", "layers.1.mlp.xx_proj.weight", "is not part of"),
        ("layers.1.mlp.up_proj.weight", "layers.7.mlp.up_proj.weight", "is not part of"),
        ("layers.1.mlp.up_proj.weight", "layers.1.mlp.up_proj.scales", "is not part of"),
        ("lm_head.weight", "lm_head.scales", "is not part of"),
    ],
)
def test_a_tensor_of_another_architecture_is_refused(version: Path, old, new, says):
    _rename_tensor(version, old, new)
    with pytest.raises(InvalidError, match=says):
        convert(version, version / "out.gguf", "a-digest")


def test_a_missing_tensor_is_refused_by_name(version: Path):
    config = json.loads((version / "config.json").read_text())
    (version / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(InvalidError, match=r"blk\.2\.attn_k\.weight is missing"):
        convert(version, version / "out.gguf", "a-digest")


def test_a_shape_that_contradicts_the_heads_is_refused(version: Path):
    config = json.loads((version / "config.json").read_text())
    (version / "config.json").write_text(json.dumps({**config, "head_dim": 16}))
    with pytest.raises(InvalidError, match="not 2 heads"):
        convert(version, version / "out.gguf", "a-digest")


def test_a_version_is_converted_once(version: Path, tmp_path: Path):
    first = cached_gguf(version, "d1", tmp_path / "cache")
    written_ns = first.stat().st_mtime_ns
    assert cached_gguf(version, "d1", tmp_path / "cache") == first
    assert first.stat().st_mtime_ns == written_ns
    assert cached_gguf(version, "d2", tmp_path / "cache") != first
    assert cached_gguf(version, "d1", tmp_path / "cache", "float32") != first


def test_a_failed_conversion_leaves_nothing_and_the_next_one_succeeds(version, tmp_path):
    (version / "tokenizer.json").rename(version / "kept.json")
    with pytest.raises(InvalidError, match=r"tokenizer\.json cannot be read"):
        cached_gguf(version, "d1", tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache" / "gguf").iterdir()] == [".lock"]
    (version / "kept.json").rename(version / "tokenizer.json")
    assert cached_gguf(version, "d1", tmp_path / "cache").exists()


def test_what_a_killed_conversion_left_is_written_anew(version: Path, tmp_path: Path):
    target = tmp_path / "cache" / "gguf" / f"d1.v{cache.CONVERTER_VERSION}.auto.gguf"
    target.parent.mkdir(parents=True)
    target.with_suffix(".partial").write_bytes(b"half")
    assert tensors_of(cached_gguf(version, "d1", tmp_path / "cache"))


def test_an_unknown_type_is_refused(version: Path, tmp_path: Path):
    with pytest.raises(InvalidError, match="use auto or float32"):
        cached_gguf(version, "d1", tmp_path / "cache", "int4")


def test_processes_that_convert_at_once_all_get_a_whole_file(version: Path, tmp_path: Path):
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(3) as pool:
        arguments = [(version, "d1", tmp_path / "cache")] * 3
        paths = set(pool.starmap(cached_gguf, arguments))
        pool.close()
        pool.join()
    [path] = paths
    assert len(tensors_of(path)) == len(read_tensors(version))
