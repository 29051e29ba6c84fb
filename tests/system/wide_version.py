"""A version large enough to be caught in the middle of its sync; its architecture is never served."""

import shutil
import zlib

from installation import BUCKET, MODELS, ORG, Installation

from safetensors_files import safetensors_file
from weighbridge.sdk import Client
from weighbridge.weights.tensors import TensorSpec

SLOW_SYNC = {"WEIGHBRIDGE_SYNC_PART_BYTES": "1048576", "WEIGHBRIDGE_SYNC_PARTS_PARALLEL": "1"}
WIDE_ROWS = 16 * 1024


def upload_wide(site: Installation, client: Client, arch: str = "wide"):
    """Each architecture once; their weights differ, so that none of them is there already."""
    base = site.root / arch
    shutil.copytree(MODELS / "llama-v1", base)
    tensors = [TensorSpec("wide", "F32", (WIDE_ROWS, 1024))]
    content = safetensors_file(tensors, fill=zlib.crc32(arch.encode()))
    (base / "model.safetensors").write_bytes(content)
    client.admin.architectures.register(arch, str(base))
    site.s3.put(BUCKET, f"{arch}/model.safetensors", content)
    return client.models.upload(ORG, arch, f"s3://{BUCKET}/{arch}")


def is_under_way(client: Client, name: str) -> bool:
    version = client.versions.get(name)
    assert not version.done, version.raw
    return 0 < version.progress.bytes_done < version.progress.bytes_total
