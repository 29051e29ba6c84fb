"""Acceptance probes as values: what is asked, what is checked, what came back."""

from collections.abc import Mapping
from dataclasses import dataclass, field

PROBES_MAX = 16
"""Of one architecture, and of one endpoint."""
MESSAGES_MAX = 32
PROMPT_CHARS_MAX = 16_000
TEXT_CHARS_MAX = 4_000
REGEX_CHARS_MAX = 1_000
SCHEMA_CHARS_MAX = 16_000
TOKENS_MAX = 512
EXAM_S = 150.0
"""For all probes of one replica together, in one try."""
EXAM_TRIES_MAX = 3
"""So often an exam is begun that breaks off by no fault of the replica's."""


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str


@dataclass(frozen=True, slots=True)
class LatencyMax:
    """Seconds until the first token, and until the end."""

    first_token: float | None = None
    total: float | None = None


@dataclass(frozen=True, slots=True)
class ReferenceToken:
    token: str
    logprob: float


@dataclass(frozen=True, slots=True)
class Checks:
    """What the answer must be; what is None is not checked."""

    not_empty: bool = False
    equals: str | None = None
    contains: str | None = None
    regex: str | None = None
    """Must be found somewhere in the text; Python's syntax."""
    json_schema: Mapping[str, object] | None = None
    """The text must be JSON that is valid under it (draft 2020-12)."""
    max_latency_s: LatencyMax | None = None
    logprob_drift_max: float | None = None
    """Mean absolute difference of the log-probabilities of the expected tokens."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A prompt (messages or text), how it is sampled, and its checks.

    `reference` are the expected tokens where no replica of the base version serves to be asked.
    """

    name: str
    messages: tuple[Message, ...] = ()
    prompt: str | None = None
    max_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    checks: Checks = field(default_factory=Checks)
    reference: tuple[ReferenceToken, ...] = ()

    @property
    def question(self) -> str:
        """Its last words, for people."""
        return self.prompt or (self.messages[-1].content if self.messages else "")


@dataclass(frozen=True, slots=True)
class Token:
    """A generated token; `alternatives` are the likeliest at its place, itself among them."""

    token: str
    logprob: float
    alternatives: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    text: str
    tokens: tuple[Token, ...]
    first_token_s: float
    total_s: float


@dataclass(frozen=True, slots=True)
class Failure:
    check: str
    detail: str


@dataclass(frozen=True, slots=True)
class Result:
    """One probe's outcome; `notes` say what could not be checked and why."""

    probe: Probe
    answer: Answer | None
    failures: tuple[Failure, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an exam has shown of a replica."""

    passed: bool
    detail: str
    probes: int
    notes: tuple[str, ...] = ()
