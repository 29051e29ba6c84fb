"""What a file that was fetched or found in the store must be: the header that the verdict was given on."""

from collections.abc import Sequence
from pathlib import Path

from weighbridge.errors import InvalidError
from weighbridge.ingest.model import PinnedFile
from weighbridge.ingest.s3.faults import SourceError
from weighbridge.weights.disk.verification import Readable
from weighbridge.weights.safetensors import LENGTH_BYTES, header_length, parse_header
from weighbridge.weights.tensors import TensorSpec


def check_staged(file: PinnedFile, specs: Sequence[TensorSpec], path: Path) -> None:
    with path.open("rb") as content:
        check_header(file, specs, content)


def check_header(file: PinnedFile, specs: Sequence[TensorSpec], content: Readable) -> None:
    """The bytes that were stored start with the header the verdict was given on."""
    first = content.read(LENGTH_BYTES) or b""
    try:
        head = first + (content.read(header_length(first)) or b"")
        same = parse_header(head, file.size_bytes) == specs
    except InvalidError:
        same = False
    if not same:
        raise SourceError(
            f"{file.key} arrived with another header than S3 had shown before. Upload it to the bucket again.",
            code="CHECKSUM",
        )
