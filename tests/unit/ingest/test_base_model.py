"""Reading an operator's base model: what is kept, and what must be there."""

import json
from pathlib import Path

import pytest

from safetensors_files import index_of, safetensors_file
from weighbridge.errors import InvalidError
from weighbridge.ingest.base_model import read_base_model
from weighbridge.ingest.s3 import S3Access
from weighbridge.settings import Settings
from weighbridge.weights.tensors import TensorSpec

A, B = TensorSpec("a", "BF16", (2, 2)), TensorSpec("b", "F32", (3,))
SHARDS = {"model-1.safetensors": [B], "model-2.safetensors": [A]}
CONFIG = json.dumps({"model_type": "llama"}).encode()


@pytest.fixture
def s3() -> S3Access:
    return S3Access(Settings())


@pytest.fixture
def base(tmp_path: Path) -> Path:
    for name, specs in SHARDS.items():
        (tmp_path / name).write_bytes(safetensors_file(specs))
    (tmp_path / "model.safetensors.index.json").write_bytes(index_of(SHARDS))
    (tmp_path / "config.json").write_bytes(CONFIG)
    (tmp_path / "tokenizer.json").write_bytes(b"{}")
    (tmp_path / "chat_template.jinja").write_bytes(b"{{ messages }}")
    (tmp_path / "modeling_evil.py").write_bytes(b"raise SystemExit")
    (tmp_path / "sub").mkdir()
    return tmp_path


async def test_small_files_are_kept_and_tensors_read_from_the_headers(
    base: Path, s3: S3Access
) -> None:
    model = await read_base_model(str(base), s3)
    assert dict(model.files) == {
        "config.json": CONFIG,
        "tokenizer.json": b"{}",
        "chat_template.jinja": b"{{ messages }}",
    }
    assert model.tensors == (A, B)
    assert model.source_uri == str(base)


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        (["config.json"], "has no config.json"),
        (["tokenizer.json"], "has no tokenizer"),
        ([*SHARDS, "model.safetensors.index.json"], "has no *.safetensors"),
        (["model-1.safetensors"], "1 files that are not there"),
    ],
)
async def test_what_is_missing_is_named(
    gone: list[str], words: str, base: Path, s3: S3Access
) -> None:
    for name in gone:
        (base / name).unlink()
    with pytest.raises(InvalidError) as refusal:
        await read_base_model(str(base), s3)
    assert words in refusal.value.message


async def test_a_directory_that_is_not_there_is_named(s3: S3Access) -> None:
    with pytest.raises(InvalidError, match="is not a directory"):
        await read_base_model("/no/such/base", s3)
