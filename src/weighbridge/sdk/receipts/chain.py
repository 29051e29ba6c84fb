"""The hash chain of a receipt: what an entry's hash is taken of. Server and offline check share this file."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

FORMAT = "weighbridge.receipt"
SCHEMA = 1
ALGORITHM = "sha256"
"""Not BLAKE3, which names weights here: every machine has a tool that computes this one."""
GENESIS = "0" * 64
"""What the first entry follows."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One event of a deployment. `sequence` counts from 1."""

    sequence: int
    payload: Mapping[str, object]
    previous: str
    hash: str


def canonical(payload: Mapping[str, object]) -> str:
    """The payload as the one text that stands for it: JSON, keys sorted, no spaces, ASCII only."""
    return json.dumps(payload, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def entry_hash(deployment_id: str, sequence: int, previous: str, payload: str) -> str:
    """SHA-256, in hex, of four lines: deployment, sequence, the hash before, the canonical payload."""
    text = f"{deployment_id}\n{sequence}\n{previous}\n{payload}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def link(
    deployment_id: str, after: int, head: str, payloads: Sequence[Mapping[str, object]]
) -> list[Entry]:
    """The entries that continue a chain of `after` entries whose last hash is `head`."""
    entries = []
    for sequence, payload in enumerate(payloads, after + 1):
        digest = entry_hash(deployment_id, sequence, head, canonical(payload))
        entries.append(Entry(sequence, payload, head, digest))
        head = digest
    return entries
