"""An operator's base model as an architecture needs it: small files whole, tensors by their headers alone."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from weighbridge.clock import monotonic_s
from weighbridge.errors import InvalidError, NotFoundError
from weighbridge.ingest.model import PinnedFile, S3Prefix, SyncLimits
from weighbridge.ingest.plan import TENSOR_SUFFIX
from weighbridge.ingest.pulse import Pulse
from weighbridge.ingest.s3.access import S3Access
from weighbridge.ingest.s3.faults import SourceError
from weighbridge.ingest.s3.policies import Reader
from weighbridge.ingest.s3.source import HEAD_BYTES, Source
from weighbridge.weights.base import WeightStore
from weighbridge.weights.config import CONFIG_FILE, parse_config
from weighbridge.weights.manifest import Manifest
from weighbridge.weights.safetensors import LENGTH_BYTES, header_length, parse_header
from weighbridge.weights.shard_index import (
    INDEX_FILE,
    index_problems,
    parse_index,
)
from weighbridge.weights.tensors import TensorSpec, compare_tables
from weighbridge.weights.verdict import Wish

FILE_BYTES_MAX = 128 * 1024 * 1024
"""Of one kept file; the largest tokenizers have some 40 MB."""

_TOKENIZERS = frozenset(["tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt"])
_KEPT = re.compile(
    r"config\.json|generation_config\.json|tokenizer\.json|tokenizer_config\.json|tokenizer\.model|"
    r"special_tokens_map\.json|added_tokens\.json|vocab\.(json|txt)|merges\.txt|"
    r"chat_template\.(jinja|json)|[A-Za-z0-9_-]+\.tiktoken"
)
_LIMITS = SyncLimits(
    bytes_max=0,
    part_bytes=16 * 1024 * 1024,
    parts_parallel=8,
    stall_s=30.0,
    total_s=600.0,
    access_retry_s=0.0,
    disk_wait_s=0.0,
    disk_free_min_share=0.0,
)


@dataclass(frozen=True, slots=True)
class BaseModel:
    """`files` by name: config, generation defaults, tokenizer, template. `tensors` is what uploads must match."""

    source_uri: str
    files: Mapping[str, bytes]
    tensors: Sequence[TensorSpec]


async def read_base_model(source: str, s3: S3Access) -> BaseModel:
    """Read `source`, a local directory or `s3://bucket/prefix` (with the server's own credentials).

    InvalidError when it cannot be read, or config, tokenizer or tensors are missing or malformed.
    """
    try:
        return await asyncio.to_thread(_read, source, s3)
    except SourceError as error:
        raise InvalidError(error.message, code=error.code, param="source") from error
    except OSError as error:
        raise InvalidError(
            f"The base model {source} cannot be read: {error.strerror}.", param="source"
        ) from error


def read_wish(
    store: WeightStore, arch_id: str, base_digest: str, tensors: Sequence[TensorSpec]
) -> tuple[Manifest, Wish]:
    """An architecture's own files, and what uploads must fit; SourceError BASE_MISSING. Blocking."""
    try:
        base = store.manifest(base_digest)
        entry = base.by_path()[CONFIG_FILE]
        with closing(store.open_blob(entry.digest)) as file:
            config = file.read(entry.size_bytes) or b""
    except (NotFoundError, KeyError, FileNotFoundError) as error:
        raise SourceError(
            f"The files of architecture {arch_id} are not in the weight store. "
            "Its operator must register it again.",
            code="BASE_MISSING",
        ) from error
    return base, Wish(arch_id, tensors, config)


class _Folder(Protocol):
    @property
    def sizes(self) -> Mapping[str, int]: ...

    def read(self, name: str, start: int, end: int) -> bytes: ...


def _read(source: str, s3: S3Access) -> BaseModel:
    folder: _Folder = _S3Folder(source, s3) if source.startswith("s3://") else _LocalFolder(source)
    names = sorted(name for name in folder.sizes if _KEPT.fullmatch(name))
    if CONFIG_FILE not in names:
        raise _incomplete(source, f"has no {CONFIG_FILE}")
    if not _TOKENIZERS & set(names):
        raise _incomplete(source, f"has no tokenizer (one of {', '.join(sorted(_TOKENIZERS))})")
    for name in names:
        if folder.sizes[name] > FILE_BYTES_MAX:
            raise _incomplete(source, f"has a {name} of more than {FILE_BYTES_MAX} bytes")
    files = {name: folder.read(name, 0, folder.sizes[name]) for name in names}
    parse_config(files[CONFIG_FILE])
    return BaseModel(source, files, _tensors(source, folder))


def _tensors(source: str, folder: _Folder) -> Sequence[TensorSpec]:
    shards = sorted(name for name in folder.sizes if name.endswith(TENSOR_SUFFIX))
    if not shards:
        raise _incomplete(source, f"has no *{TENSOR_SUFFIX} file")
    headers = {name: _header(folder, name) for name in shards}
    if INDEX_FILE in folder.sizes:
        weight_map = parse_index(folder.read(INDEX_FILE, 0, folder.sizes[INDEX_FILE]))
        for problem in index_problems(weight_map, shards, headers):
            raise InvalidError(problem.message, code=problem.code, param="source")
    table = sorted(spec for specs in headers.values() for spec in specs)
    if difference := compare_tables(table, headers):
        raise _incomplete(source, f"is ambiguous: {difference.describe()}")
    return tuple(table)


def _header(folder: _Folder, name: str) -> Sequence[TensorSpec]:
    size = folder.sizes[name]
    head = folder.read(name, 0, min(size, HEAD_BYTES))
    end = LENGTH_BYTES + header_length(head)
    if end > len(head):
        head += folder.read(name, len(head), min(size, end))
    return parse_header(head, size)


class _LocalFolder:
    def __init__(self, source: str) -> None:
        self._path = Path(source).expanduser()
        if not self._path.is_dir():
            raise InvalidError(f"{source} is not a directory of this machine.", param="source")
        self.sizes = {p.name: p.stat().st_size for p in self._path.iterdir() if p.is_file()}

    def read(self, name: str, start: int, end: int) -> bytes:
        with (self._path / name).open("rb") as file:
            file.seek(start)
            return file.read(end - start)


class _S3Folder:
    def __init__(self, source: str, s3: S3Access) -> None:
        prefix = S3Prefix.parse(source)
        reader = Reader(prefix, role_arn=None, external_id="")
        self._source = Source(s3, reader, _LIMITS, Pulse(monotonic_s))
        objects, _ = self._source.list_folder()
        wanted = {item.key.removeprefix(prefix.folder): item for item in objects}
        names = [
            name
            for name in wanted
            if _KEPT.fullmatch(name) or name == INDEX_FILE or name.endswith(TENSOR_SUFFIX)
        ]
        pinned = self._source.each(lambda name: self._source.pin(wanted[name], name), names)
        self._files: Mapping[str, PinnedFile] = {file.path: file for file in pinned}
        self.sizes = {name: file.size_bytes for name, file in self._files.items()}

    def read(self, name: str, start: int, end: int) -> bytes:
        return self._source.read(self._files[name], start, end)


def _incomplete(source: str, reason: str) -> InvalidError:
    return InvalidError(f"The base model {source} {reason}.", code="BAD_BASE_MODEL", param="source")
