"""What S3 states about an object is read as it is meant, and a file is held against all of it."""

import base64
import hashlib
from pathlib import Path

import awscrt.checksums
import pytest

from ingest_world import SPECS
from safetensors_files import safetensors_file
from weighbridge.ingest.content import check_staged, stated_checksums
from weighbridge.ingest.model import PinnedFile
from weighbridge.ingest.pump.sums import Stated
from weighbridge.ingest.s3.faults import SourceError

CONTENT = safetensors_file(SPECS)
PART = 7_000


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def crc32c(content: bytes) -> bytes:
    return awscrt.checksums.crc32c(content).to_bytes(4, "big")


def crc64(content: bytes) -> bytes:
    return awscrt.checksums.crc64nvme(content).to_bytes(8, "big")


def parts() -> list[bytes]:
    return [CONTENT[at : at + PART] for at in range(0, len(CONTENT), PART)]


def composite(algorithm) -> str:
    return f"{b64(algorithm(b''.join(map(algorithm, parts()))))}-{len(parts())}"


def stated(**members: object) -> str | None:
    return stated_checksums({"ContentLength": len(CONTENT), **members}, lambda: PART)


def pinned(checksum: str | None) -> PinnedFile:
    return PinnedFile("m/x", "x", len(CONTENT), "e", None, checksum)


def test_several_checksums_are_all_kept_with_the_one_that_combines_first() -> None:
    text = stated(ChecksumSHA256=b64(sha256(CONTENT)), ChecksumCRC64NVME=b64(crc64(CONTENT)))
    assert text == f"crc64nvme:{b64(crc64(CONTENT))} sha256:{b64(sha256(CONTENT))}"
    assert pinned(text).content_checksum == f"crc64nvme:{b64(crc64(CONTENT))}"
    found = Stated.parse(text)
    assert found is not None
    assert found.algorithm == "crc64nvme"


def test_a_checksum_of_the_wrong_length_or_of_unequal_parts_says_nothing() -> None:
    assert stated(ChecksumCRC64NVME="Nzkseg==") is None
    assert stated(ChecksumCRC32C=f"{b64(b'1234')}-2") is None
    assert stated(ChecksumSHA256="!") is None
    assert Stated.parse(None) is None
    assert Stated.parse("sha256:x") is None


@pytest.mark.parametrize(
    "members",
    [
        {"ChecksumSHA256": b64(sha256(CONTENT))},
        {"ChecksumSHA1": b64(hashlib.sha1(CONTENT).digest())},
        {"ChecksumCRC32C": composite(crc32c), "ChecksumType": "COMPOSITE"},
        {"ChecksumSHA256": composite(sha256), "ChecksumType": "COMPOSITE"},
    ],
    ids=["sha256", "sha1", "crc32c of parts", "sha256 of parts"],
)
def test_a_file_is_held_against_each(members: dict[str, str], tmp_path: Path) -> None:
    text = stated(**members)
    assert text is not None
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_bytes(CONTENT)
    bad.write_bytes(CONTENT[:-1] + b"?")
    check_staged(pinned(text), SPECS, good)
    with pytest.raises(SourceError) as refusal:
        check_staged(pinned(text), SPECS, bad)
    assert refusal.value.code == "CHECKSUM"
