"""One case of a weight sync: what the bucket holds, what goes wrong, how the sync must end.

`code` None means `done`; `words` must be in the message.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ingest_world import SPECS as SMALL_SPECS
from s3_stub import Asked, Request
from safetensors_files import safetensors_file
from weighbridge.weights.tensors import TensorSpec

EMBED, _, NORM = SMALL_SPECS
UP = TensorSpec("model.layers.0.mlp.up_proj.weight", "BF16", (2048, 64))
SPECS = (EMBED, UP, NORM)
"""More than fits into one small file of the pump's, so the first shard goes the way of large files."""
MODEL = "model.safetensors"
INDEX = "model.safetensors.index.json"
GOOD = safetensors_file(SPECS)
SHARD_1, SHARD_2 = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
SHARDS = {SHARD_1: SPECS[:2], SHARD_2: SPECS[2:]}
SHARD_FILES = {name: safetensors_file(specs) for name, specs in SHARDS.items()}

Fault = Callable[[Asked, int], str]
Refusal = Callable[[Request, int], tuple[int, str] | None]
Page = Callable[[Mapping[str, str], int], str | None]


@dataclass(frozen=True)
class Case:
    """`fault` and `refusal` get the number of the GET, or of the request, within this case's folder."""

    code: str | None
    files: Mapping[str, bytes] = field(default_factory=lambda: {MODEL: GOOD})
    words: str = ""
    fault: Fault | None = None
    refusal: Refusal | None = None
    page: Page | None = None
    head: Mapping[str, str] = field(default_factory=dict)
    uri: str | None = None
    disk: str = ""
