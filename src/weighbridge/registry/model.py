"""Model architectures and model versions as values, with the states of a weight sync."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from weighbridge.engines.base import EngineSettings
from weighbridge.weights.tensors import TensorSpec


class SyncStatus(StrEnum):
    """States of a weight sync (reliability B1); the wire shows the same words."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    DONE = "done"
    ERROR = "error"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return not TRANSITIONS[self]


TRANSITIONS: Mapping[SyncStatus, frozenset[SyncStatus]] = {
    SyncStatus.QUEUED: frozenset(
        {SyncStatus.IN_PROGRESS, SyncStatus.ERROR, SyncStatus.CANCELLED},
    ),
    SyncStatus.IN_PROGRESS: frozenset({SyncStatus.DONE, SyncStatus.ERROR, SyncStatus.CANCELLED}),
    SyncStatus.DONE: frozenset(),
    SyncStatus.ERROR: frozenset(),
    SyncStatus.CANCELLED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class Architecture:
    """What weights must fit, and how they are served.

    `base_digest` names the manifest of the operator's files (config, tokenizer, template); `tensors`
    is the table every upload must match (W10). `org_ids` empty means every org may use it.
    """

    id: str
    source_uri: str
    base_digest: str
    tensors: Sequence[TensorSpec]
    engine: EngineSettings
    org_ids: frozenset[str]
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One upload. `number` counts from 1 per org and architecture and is never reused (V1, V2).

    `bytes_per_s` is the rate of late, None while nothing is fetched; `retries` counts requests asked again.
    """

    id: str
    org_id: str
    arch_id: str
    number: int
    weight_uri: str
    fingerprint_suffix: str | None
    aliases: Sequence[str]
    status: SyncStatus
    step: str
    error_code: str | None
    error_message: str | None
    manifest_digest: str | None
    bytes_total: int
    bytes_done: int
    files_total: int
    files_done: int
    created_at: datetime
    updated_at: datetime
    revision: int
    bytes_per_s: float | None = None
    retries: int = 0

    @property
    def succeeded(self) -> bool:
        """Its weights are in the weight store."""
        return self.status is SyncStatus.DONE


class AliasCause(StrEnum):
    """The call that changed where an alias points."""

    UPLOAD = "upload"
    REPLACE = "replace"
    """The whole set of a version's aliases was given anew."""
    MOVE = "move"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class AliasChange:
    """An alias named version `from_number` and names `to_number` since; None: no version.

    `sequence` counts the changes of one org and architecture from 1. `key_id` is the key that asked for it.
    """

    alias: str
    from_number: int | None
    to_number: int | None
    cause: AliasCause
    key_id: str | None
    changed_at: datetime
    sequence: int = 0
