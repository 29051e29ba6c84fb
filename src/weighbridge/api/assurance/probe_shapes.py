"""Acceptance probes on the wire."""

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints

from weighbridge.acceptance.model import (
    MESSAGES_MAX,
    PROBES_MAX,
    PROMPT_CHARS_MAX,
    REGEX_CHARS_MAX,
    TEXT_CHARS_MAX,
    TOKENS_MAX,
    Checks,
    LatencyMax,
    Message,
    Probe,
    ReferenceToken,
    Result,
    Token,
)
from weighbridge.acceptance.store import ProbeSet
from weighbridge.api.admin.router import Body
from weighbridge.api.answers import Answer, unix_s

TOKEN_CHARS_MAX = 1_000
SHOWN_CHARS_MAX = 16_000
"""Of an answer, in what a trial shows of it."""

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Prompt = Annotated[
    str, StringConstraints(min_length=1, max_length=PROMPT_CHARS_MAX, pattern=r"^[^\x00]*$")
]
Words = Annotated[
    str, StringConstraints(min_length=1, max_length=TEXT_CHARS_MAX, pattern=r"^[^\x00]*$")
]
Pattern = Annotated[
    str, StringConstraints(min_length=1, max_length=REGEX_CHARS_MAX, pattern=r"^[^\x00]*$")
]
Seconds = Annotated[float, Field(gt=0, le=600, allow_inf_nan=False)]


class ProbeMessage(Body):
    role: Literal["system", "user", "assistant", "developer"]
    content: Prompt


class Latency(Body):
    first_token: Seconds | None = None
    total: Seconds | None = None


class Reference(Body):
    token: Annotated[str, StringConstraints(max_length=TOKEN_CHARS_MAX, pattern=r"^[^\x00]*$")]
    logprob: float = Field(ge=-1000, le=0, allow_inf_nan=False)


class ProbeChecks(Body):
    """What the answer must be; at least one."""

    not_empty: bool = False
    equals: Words | None = Field(default=None, description="Without blanks around it.")
    contains: Words | None = None
    regex: Pattern | None = Field(default=None, description="Must be found in the answer.")
    json_schema: dict[str, object] | None = Field(
        default=None, description="Draft 2020-12; the answer must be JSON that is valid under it."
    )
    max_latency_s: Latency | None = None
    logprob_drift_max: float | None = Field(
        default=None,
        gt=0,
        le=100,
        allow_inf_nan=False,
        description="Mean absolute difference of the expected tokens' log-probabilities, against a serving "
        "replica of the base version, else against `reference`.",
    )


class ProbeShape(Body):
    name: Name
    messages: list[ProbeMessage] = Field(default=[], max_length=MESSAGES_MAX)
    prompt: Prompt | None = Field(
        default=None, description="A text to go on with, instead of messages."
    )
    max_tokens: int = Field(default=64, ge=1, le=TOKENS_MAX)
    temperature: float = Field(default=0.0, ge=0, le=2, allow_inf_nan=False)
    top_p: float = Field(default=1.0, gt=0, le=1, allow_inf_nan=False)
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    checks: ProbeChecks
    reference: list[Reference] = Field(default=[], max_length=TOKENS_MAX)

    def probe(self) -> Probe:
        checks = self.checks
        latency = checks.max_latency_s
        return Probe(
            name=self.name,
            messages=tuple(Message(one.role, one.content) for one in self.messages),
            prompt=self.prompt,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            checks=Checks(
                not_empty=checks.not_empty,
                equals=checks.equals,
                contains=checks.contains,
                regex=checks.regex,
                json_schema=checks.json_schema,
                max_latency_s=None
                if latency is None
                else LatencyMax(latency.first_token, latency.total),
                logprob_drift_max=checks.logprob_drift_max,
            ),
            reference=tuple(ReferenceToken(one.token, one.logprob) for one in self.reference),
        )

    @classmethod
    def of(cls, probe: Probe) -> Self:
        checks = probe.checks
        latency = checks.max_latency_s
        return cls(
            name=probe.name,
            messages=[
                ProbeMessage.model_validate({"role": m.role, "content": m.content})
                for m in probe.messages
            ],
            prompt=probe.prompt,
            max_tokens=probe.max_tokens,
            temperature=probe.temperature,
            top_p=probe.top_p,
            seed=probe.seed,
            checks=ProbeChecks(
                not_empty=checks.not_empty,
                equals=checks.equals,
                contains=checks.contains,
                regex=checks.regex,
                json_schema=None if checks.json_schema is None else dict(checks.json_schema),
                max_latency_s=None
                if latency is None
                else Latency(first_token=latency.first_token, total=latency.total),
                logprob_drift_max=checks.logprob_drift_max,
            ),
            reference=[Reference(token=t.token, logprob=t.logprob) for t in probe.reference],
        )


class ProbesRequest(Body):
    probes: list[ProbeShape] = Field(max_length=PROBES_MAX)


class ProbesAnswer(Answer):
    probes: list[ProbeShape]
    updated: int | None = Field(description="When they were set; null where they never were.")

    @classmethod
    def of(cls, found: ProbeSet) -> Self:
        updated = None if found.updated_at is None else unix_s(found.updated_at)
        return cls(probes=[ProbeShape.of(one) for one in found.probes], updated=updated)


class TrialRequest(Body):
    probes: list[ProbeShape] | None = Field(
        default=None, max_length=PROBES_MAX, description="Instead of those the endpoint has."
    )


class TrialFailure(Answer):
    check: str
    detail: str


class TrialResult(Answer):
    name: str
    passed: bool
    failures: list[TrialFailure]
    notes: list[str]
    text: str | None = Field(
        description=f"What was answered, at most {SHOWN_CHARS_MAX} characters of it; what is no character is "
        "shown as U+FFFD. null without an answer."
    )
    first_token_s: float | None
    total_s: float | None
    reference: list[Reference] = Field(
        description="The tokens with their log-probabilities, to store with a probe whose drift is limited."
    )

    @classmethod
    def of(cls, result: Result) -> Self:
        answer = result.answer
        tokens = () if answer is None else answer.tokens
        odd = _not_storable(tokens)
        return cls(
            name=result.probe.name,
            passed=not result.failures,
            failures=[
                TrialFailure(check=f.check, detail=_characters(f.detail)) for f in result.failures
            ],
            notes=[*map(_characters, result.notes), *([] if odd is None else [odd])],
            text=None if answer is None else _characters(answer.text[:SHOWN_CHARS_MAX]),
            first_token_s=None if answer is None else round(answer.first_token_s, 4),
            total_s=None if answer is None else round(answer.total_s, 4),
            reference=[
                Reference(token=t.token, logprob=min(0.0, max(-100.0, round(t.logprob, 6))))
                for t in (tokens if odd is None else ())
            ],
        )


def _not_storable(tokens: Sequence[Token]) -> str | None:
    """Why an answer's tokens cannot be a probe's reference; engines may send anything."""
    if len(tokens) > TOKENS_MAX:
        return f"no reference: the answer has {len(tokens):,} tokens; {TOKENS_MAX} are the most"
    for place, token in enumerate(tokens, 1):
        if len(token.token) > TOKEN_CHARS_MAX:
            what = f"has {len(token.token):,} characters; {TOKEN_CHARS_MAX:,} are the most"
        elif "\0" in token.token:
            what = "has a NUL character"
        elif token.token != _characters(token.token):
            what = "has half a surrogate pair, which is no character"
        else:
            continue
        return f"no reference: token {place} of the answer {what}"
    return None


def _characters(text: str) -> str:
    """With U+FFFD in the place of half surrogates, which no JSON document in UTF-8 takes."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class TrialAnswer(Answer):
    replica_id: str
    version_id: int
    passed: bool
    results: list[TrialResult]

    @classmethod
    def of(cls, replica_id: str, version: int, results: Sequence[Result]) -> Self:
        return cls(
            replica_id=replica_id,
            version_id=version,
            passed=not any(one.failures for one in results),
            results=[TrialResult.of(one) for one in results],
        )
