"""A version large enough to be caught in the middle of its sync; its architecture is never served."""

import shutil

from installation import BUCKET, MODELS, ORG, Installation

from safetensors_files import safetensors_file
from weighbridge.sdk import Client
from weighbridge.weights.tensors import TensorSpec

SLOW_SYNC = {"WEIGHBRIDGE_SYNC_PART_BYTES": "1048576", "WEIGHBRIDGE_SYNC_PARTS_PARALLEL": "1"}
WIDE_ROWS = 16 * 1024


def upload_wide(site: Installation, client: Client):
    base = site.root / "wide"
    shutil.copytree(MODELS / "llama-v1", base)
    content = safetensors_file([TensorSpec("wide", "F32", (WIDE_ROWS, 1024))])
    (base / "model.safetensors").write_bytes(content)
    client.admin.architectures.register("wide", str(base))
    site.s3.put(BUCKET, "wide/model.safetensors", content)
    return client.models.upload(ORG, "wide", f"s3://{BUCKET}/wide")


def is_under_way(client: Client, name: str) -> bool:
    version = client.versions.get(name)
    assert not version.done, version.raw
    return 0 < version.progress.bytes_done < version.progress.bytes_total
