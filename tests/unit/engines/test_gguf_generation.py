import json
from pathlib import Path

import pytest

from weighbridge.engines.gguf.generation import Sampling, context_tokens, read_sampling


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, Sampling()),
        ({}, Sampling()),
        ({"do_sample": False}, Sampling(temperature=0.0)),
        ({"do_sample": True, "temperature": 0.6, "top_p": 0.9}, Sampling(0.6, 0.9)),
        ({"temperature": 0.7, "top_k": 20, "min_p": 0.1}, Sampling(0.7, 1.0, 20, 0.1)),
        ({"temperature": None, "top_k": "x"}, Sampling()),
    ],
)
def test_sampling_starts_from_openais_defaults(tmp_path: Path, config, expected):
    if config is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(config))
    assert read_sampling(tmp_path) == expected


@pytest.mark.parametrize(("known", "expected"), [(512, 512), (131072, 4096), (None, 4096)])
def test_a_slots_context_is_bounded(tmp_path: Path, known, expected):
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": known}))
    assert context_tokens(tmp_path) == expected
