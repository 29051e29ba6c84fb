"""What the S3 doctor finds: steps, look-alikes and a verdict, as values."""

from collections.abc import Sequence
from dataclasses import dataclass

from weighbridge.ingest.s3.policies import Statement
from weighbridge.weights.shard_index import Problem


@dataclass(frozen=True, slots=True)
class Step:
    """One probe. With `ok` and a `code` it is a warning: weights can be read, and something should be mended.

    `statement` goes into the policy that `goes_into` names.
    """

    name: str
    ok: bool
    message: str
    code: str | None = None
    statement: Statement | None = None
    goes_into: str | None = None


@dataclass(frozen=True, slots=True)
class LookAlike:
    """A common cause that looks like another; `suggestion` is what to write instead, where it can be told."""

    code: str
    message: str
    suggestion: str | None = None


@dataclass(frozen=True, slots=True)
class UploadVerdict:
    """Whether the folder's headers fit an architecture."""

    model_arch_id: str
    problems: Sequence[Problem]
    files: int
    tensors: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Report:
    steps: Sequence[Step]
    look_alikes: Sequence[LookAlike] = ()
    verdict: UploadVerdict | None = None

    @property
    def ok(self) -> bool:
        fits = self.verdict is None or not self.verdict.problems
        return fits and all(step.ok for step in self.steps)
