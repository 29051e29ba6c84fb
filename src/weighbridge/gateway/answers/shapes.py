"""Answers as engines send them and as callers get them. Members not named here are dropped on the way.

None of them can be in a reference cycle, so the collector need not know them (`gc=False`): making one costs less.
"""

from collections.abc import Sequence

from msgspec import UNSET, MsgspecError, Struct, UnsetType

UNREADABLE = (MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding an engine's bytes raises when they are not JSON, not of these shapes, not UTF-8, or too deep."""
_COMPLETE = frozenset({"stop", "length", "content_filter", "tool_calls"})


class OtherToken(Struct, gc=False):
    token: str
    logprob: float
    bytes: list[int] | None = None


class TokenLogprob(Struct, gc=False):
    token: str
    logprob: float
    bytes: list[int] | None = None
    top_logprobs: list[OtherToken] = []


class EngineLogprobs(Struct, gc=False):
    """Both engines' form for chat; llama.cpp uses it for text completions too."""

    content: list[TokenLogprob] | None = None
    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None
    text_offset: list[int] | None = None


class CalledFunction(Struct, omit_defaults=True, gc=False):
    name: str | None = None
    arguments: str | None = None


class ToolCall(Struct, omit_defaults=True, gc=False):
    function: CalledFunction
    type: str | None = None
    id: str | None = None
    index: int | None = None


class EngineMessage(Struct, gc=False):
    """A whole message or one delta of it."""

    role: str | None = None
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None


class EngineChoice(Struct, gc=False):
    index: int = 0
    finish_reason: str | None = None
    delta: EngineMessage | None = None
    message: EngineMessage | None = None
    text: str | None = None
    logprobs: EngineLogprobs | None = None


class CachedTokens(Struct, gc=False):
    cached_tokens: int | None = None


class ReasoningTokens(Struct, gc=False):
    reasoning_tokens: int | None = None


class EngineUsage(Struct, gc=False):
    prompt_tokens: int = 0
    completion_tokens: int | None = None
    prompt_tokens_details: CachedTokens | None = None
    completion_tokens_details: ReasoningTokens | None = None


class EngineTimings(Struct, gc=False):
    """llama.cpp's own measure of one request, in milliseconds."""

    prompt_ms: float | None = None
    predicted_ms: float | None = None


class EngineError(Struct, gc=False):
    message: str = ""
    type: str | None = None
    code: str | int | None = None


class EngineAnswer(Struct, gc=False):
    """A whole answer or one chunk of it."""

    model: str = ""
    choices: list[EngineChoice] = []
    system_fingerprint: str | None = None
    usage: EngineUsage | None = None
    timings: EngineTimings | None = None
    error: EngineError | None = None


class EngineRefusal(Struct, gc=False):
    """vLLM nests `error` in some releases and sends it flat in others."""

    error: EngineError | str | None = None
    message: str = ""


class PromptDetails(Struct, gc=False):
    cached_tokens: int


class CompletionDetails(Struct, gc=False):
    reasoning_tokens: int
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0


class Usage(Struct, gc=False):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    image_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


class TimeInfo(Struct, gc=False):
    """Seconds; `created` is the unix time of the request with its fraction."""

    queue_time: float
    prompt_time: float
    completion_time: float
    total_time: float
    created: float


class ChatLogprobs(Struct, gc=False):
    content: list[TokenLogprob] | None
    refusal: None = None


class TextLogprobs(Struct, gc=False):
    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class Message(Struct, gc=False):
    role: str
    content: str | None
    tool_calls: list[ToolCall] | None
    reasoning: str | UnsetType = UNSET


class Delta(Struct, omit_defaults=True, gc=False):
    role: str | None = None
    content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCall] | None = None


class ChatChoice(Struct, gc=False):
    finish_reason: str
    index: int
    message: Message
    logprobs: ChatLogprobs | None
    reasoning_logprobs: None = None


class TextChoice(Struct, gc=False):
    index: int
    text: str
    finish_reason: str
    logprobs: TextLogprobs | None
    tokens: None = None


class DeltaChoice(Struct, omit_defaults=True, gc=False):
    delta: Delta
    index: int
    finish_reason: str | None = None
    logprobs: ChatLogprobs | None = None


class TextDeltaChoice(Struct, omit_defaults=True, gc=False):
    index: int
    text: str
    finish_reason: str | None = None
    logprobs: TextLogprobs | None = None


class Answer(Struct, gc=False):
    id: str
    choices: Sequence[ChatChoice] | Sequence[TextChoice]
    created: int
    model: str
    object: str
    system_fingerprint: str
    time_info: TimeInfo
    usage: Usage | UnsetType
    service_tier_used: str | UnsetType
    service_tier: None = None


class Chunk(Struct, gc=False):
    id: str
    choices: Sequence[DeltaChoice | TextDeltaChoice]
    created: int
    model: str
    system_fingerprint: str
    object: str
    usage: Usage | UnsetType = UNSET
    time_info: TimeInfo | UnsetType = UNSET
    service_tier_used: str | UnsetType = UNSET


def finish_word(reason: str | None) -> str:
    """The API's four words; an engine's own (`eos`, `abort`) count as an ordinary stop."""
    return reason if reason in _COMPLETE else "stop"
