"""How long until an upload is judged, and how much is read for it: 500 GB in 200 shards on a local origin."""

import json
import os
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence

from benchmarks.harness import Candidate, Result
from benchmarks.ingest.sparse_origin import Origin, SparseObject, running_origin
from weighbridge.clock import monotonic_s
from weighbridge.ingest.model import S3Prefix, SyncLimits
from weighbridge.ingest.pulse import Pulse
from weighbridge.ingest.s3.access import S3Access
from weighbridge.ingest.s3.policies import Reader
from weighbridge.ingest.s3.source import Source
from weighbridge.ingest.s3.survey import pin_folder, read_headers
from weighbridge.settings import Settings
from weighbridge.weights.shard_index import INDEX_FILE
from weighbridge.weights.tensors import TensorSpec, size_bytes
from weighbridge.weights.verdict import Wish, judge

RUNS = 7
SHARDS = 200
ROLE = "arn:aws:iam::123456789012:role/reader"
FAR_S = 0.03
CONFIG = json.dumps({"model_type": "llama", "hidden_size": 16384, "vocab_size": 128256}).encode()
LIMITS = SyncLimits(
    bytes_max=2**42,
    part_bytes=16 * 2**20,
    parts_parallel=8,
    stall_s=30.0,
    total_s=600.0,
    access_retry_s=0.0,
    disk_wait_s=0.0,
    disk_free_min_share=0.0,
)


def dense() -> Sequence[TensorSpec]:
    """79 layers of a large llama: some 500 GB of BF16 in 714 tensors."""
    shapes = {
        "self_attn.q_proj": (16384, 16384), "self_attn.k_proj": (2048, 16384),
        "self_attn.v_proj": (2048, 16384), "self_attn.o_proj": (16384, 16384),
        "mlp.gate_proj": (53248, 16384), "mlp.up_proj": (53248, 16384), "mlp.down_proj": (16384, 53248),
        "input_layernorm": (16384,), "post_attention_layernorm": (16384,),
    }  # fmt: skip
    return _table(79, shapes)


def experts() -> Sequence[TensorSpec]:
    """58 layers of 256 experts: some 500 GB of BF16 in 45,000 tensors."""
    shapes: dict[str, tuple[int, ...]] = {
        f"mlp.experts.{expert}.{part}": shape
        for expert in range(256)
        for part, shape in (
            ("gate_proj", (1024, 5376)), ("up_proj", (1024, 5376)), ("down_proj", (5376, 1024)),
        )
    }  # fmt: skip
    return _table(58, {**shapes, "input_layernorm": (5376,), "self_attn.o_proj": (5376, 5376)})


def _table(layers: int, shapes: Mapping[str, tuple[int, ...]]) -> Sequence[TensorSpec]:
    table = [
        TensorSpec(f"model.layers.{layer}.{name}.weight", "BF16", shape)
        for layer in range(layers)
        for name, shape in shapes.items()
    ]
    width = shapes["input_layernorm"][0]
    ends = ("model.embed_tokens.weight", "lm_head.weight")
    return [*table, *(TensorSpec(name, "BF16", (128256, width)) for name in ends)]


def folder(specs: Sequence[TensorSpec]) -> Mapping[str, SparseObject]:
    """The tensors in SHARDS files, with config and index, under `m/`."""
    files = {f"model-{n:05}-of-{SHARDS:05}.safetensors": specs[n::SHARDS] for n in range(SHARDS)}
    index = {"weight_map": {spec.name: name for name, held in files.items() for spec in held}}
    objects = {f"m/{name}": _shard(held) for name, held in files.items()}
    for name, content in (("config.json", CONFIG), (INDEX_FILE, json.dumps(index).encode())):
        objects[f"m/{name}"] = SparseObject(content, len(content))
    return objects


def _shard(specs: Sequence[TensorSpec]) -> SparseObject:
    members, at = {}, 0
    for spec in specs:
        end = at + size_bytes(spec)
        members[spec.name] = {"dtype": spec.dtype, "shape": spec.shape, "data_offsets": (at, end)}
        at = end
    text = json.dumps(members).encode()
    return SparseObject(len(text).to_bytes(8, "little") + text, 8 + len(text) + at)


def run() -> Result:
    os.environ |= {"AWS_ACCESS_KEY_ID": "origin", "AWS_SECRET_ACCESS_KEY": "origin"}
    tables = {"dense": dense(), "experts": experts()}
    folders = {name: folder(specs) for name, specs in tables.items()}
    samples: dict[str, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with (
        running_origin(folders["dense"]) as near,
        running_origin(folders["experts"]) as near_experts,
        running_origin(folders["dense"], delay_s=FAR_S) as far,
    ):
        cases = (
            (f"{_about(tables['dense'])}, loopback", near, "dense"),
            (f"{_about(tables['experts'])}, loopback", near_experts, "experts"),
            (f"{_about(tables['dense'])}, {FAR_S * 1000:.0f} ms per answer", far, "dense"),
        )
        access = {name: S3Access(Settings(s3_endpoint_url=one.url)) for name, one, _ in cases}
        for _ in range(RUNS):
            for name, origin, table in cases:
                for figure, value in _verdict(origin, access[name], tables[table]).items():
                    samples[name][figure].append(value)
    return Result(
        name="verdict",
        title=f"verdict on {SHARDS} shards",
        command="python -m benchmarks verdict",
        candidates=[Candidate(name, dict(figures)) for name, figures in samples.items()],
        notes=[
            "from the first S3 call (a new client, AssumeRole, listing) to the verdict that all tensors fit",
            "origin: benchmarks/ingest/sparse_origin.py in a process of its own; no TLS, no signatures checked",
            "the first sample of a case includes loading botocore's service descriptions",
        ],
    )


def _verdict(origin: Origin, access: S3Access, specs: Sequence[TensorSpec]) -> Mapping[str, float]:
    origin.bytes_sent()
    wish = Wish("benchmark", specs, CONFIG)
    began = time.perf_counter()
    reader = Reader(S3Prefix("bucket", "m"), ROLE, "external")
    source = Source(access, reader, LIMITS, Pulse(monotonic_s))
    files, _ = pin_folder(source)
    verdict = judge(wish, read_headers(source, files))
    seconds = time.perf_counter() - began
    assert not verdict.problems, verdict.problems
    return {"seconds": seconds, "megabytes_read": origin.bytes_sent() / 1e6}


def _about(specs: Sequence[TensorSpec]) -> str:
    size = sum(size_bytes(spec) for spec in specs)
    return f"{size / 1e9:.0f} GB in {len(specs)} tensors"
