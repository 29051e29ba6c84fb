"""The first look at a folder, before a byte of its weights moves: pin what is there, read configs and headers."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from weighbridge.errors import InvalidError
from weighbridge.ingest.model import PinnedFile, SyncLimits
from weighbridge.ingest.plan import select
from weighbridge.ingest.pulse import Pulse
from weighbridge.ingest.s3.access import S3Access
from weighbridge.ingest.s3.policies import Reader
from weighbridge.ingest.s3.source import Source
from weighbridge.weights.config import CONFIG_FILE
from weighbridge.weights.shard_index import INDEX_FILE
from weighbridge.weights.tensors import TensorSpec
from weighbridge.weights.verdict import Headers

_TEXTS = frozenset({CONFIG_FILE, INDEX_FILE})


def pin_folder(source: Source) -> tuple[list[PinnedFile], Mapping[str, str]]:
    """The files a sync is about, each as it is now (W3), and why the others are ignored. Blocking."""
    objects, folders = source.list_folder()
    selection = select(source.reader.source, objects, folders)
    wanted = [*selection.tensors.items(), *selection.compared.items()]
    return source.each(lambda pair: source.pin(pair[1], pair[0]), wanted), selection.ignored


def is_proven(access: S3Access, reader: Reader, limits: SyncLimits, pulse: Pulse) -> bool:
    """Whether somebody else in the reader's place is refused: then the bucket knows the reader's org (T7). Blocking."""
    if reader.role_arn is None:
        return False
    at_once = replace(limits, access_retry_s=0.0)
    return not Source(access, reader.as_stranger(), at_once, pulse).may_list()


def tensor_files(files: Sequence[PinnedFile]) -> Sequence[PinnedFile]:
    return [file for file in files if file.path not in _TEXTS]


def read_headers(source: Source, files: Sequence[PinnedFile]) -> Headers:
    """What a verdict needs of pinned files, some 64 kB of each shard; a bad header is its error. Blocking."""

    def look(file: PinnedFile) -> bytes | Sequence[TensorSpec] | InvalidError:
        if file.path in _TEXTS:
            return source.read(file, 0, file.size_bytes)
        try:
            return source.header(file)
        except InvalidError as error:
            return error

    texts: dict[str, bytes] = {}
    tensors: dict[str, Sequence[TensorSpec] | InvalidError] = {}
    for file, seen in zip(files, source.each(look, files), strict=True):
        if isinstance(seen, bytes):
            texts[file.path] = seen
        else:
            tensors[file.path] = seen
    return Headers(texts.get(CONFIG_FILE), texts.get(INDEX_FILE), tensors)
