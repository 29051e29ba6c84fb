"""Answers as engines send them and as callers get them. Members not named here are dropped on the way."""

from collections.abc import Sequence

from msgspec import UNSET, MsgspecError, Struct, UnsetType

UNREADABLE = (MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding an engine's bytes raises when they are not JSON, not of these shapes, not UTF-8, or too deep."""
_COMPLETE = frozenset({"stop", "length", "content_filter", "tool_calls"})


class OtherToken(Struct):
    token: str
    logprob: float
    bytes: list[int] | None = None


class TokenLogprob(Struct):
    token: str
    logprob: float
    bytes: list[int] | None = None
    top_logprobs: list[OtherToken] = []


class EngineLogprobs(Struct):
    """Both engines' form for chat; llama.cpp uses it for text completions too."""

    content: list[TokenLogprob] | None = None
    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None
    text_offset: list[int] | None = None


class CalledFunction(Struct, omit_defaults=True):
    name: str | None = None
    arguments: str | None = None


class ToolCall(Struct, omit_defaults=True):
    function: CalledFunction
    type: str | None = None
    id: str | None = None
    index: int | None = None


class EngineMessage(Struct):
    """A whole message or one delta of it."""

    role: str | None = None
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None


class EngineChoice(Struct):
    index: int = 0
    finish_reason: str | None = None
    delta: EngineMessage | None = None
    message: EngineMessage | None = None
    text: str | None = None
    logprobs: EngineLogprobs | None = None


class CachedTokens(Struct):
    cached_tokens: int | None = None


class ReasoningTokens(Struct):
    reasoning_tokens: int | None = None


class EngineUsage(Struct):
    prompt_tokens: int = 0
    completion_tokens: int | None = None
    prompt_tokens_details: CachedTokens | None = None
    completion_tokens_details: ReasoningTokens | None = None


class EngineTimings(Struct):
    """llama.cpp's own measure of one request, in milliseconds."""

    prompt_ms: float | None = None
    predicted_ms: float | None = None


class EngineError(Struct):
    message: str = ""
    type: str | None = None
    code: str | int | None = None


class EngineAnswer(Struct):
    """A whole answer or one chunk of it."""

    model: str = ""
    choices: list[EngineChoice] = []
    system_fingerprint: str | None = None
    usage: EngineUsage | None = None
    timings: EngineTimings | None = None
    error: EngineError | None = None


class EngineRefusal(Struct):
    """vLLM nests `error` in some releases and sends it flat in others."""

    error: EngineError | str | None = None
    message: str = ""


class PromptDetails(Struct):
    cached_tokens: int


class CompletionDetails(Struct):
    reasoning_tokens: int
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0


class Usage(Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    image_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


class TimeInfo(Struct):
    """Seconds; `created` is the unix time of the request with its fraction."""

    queue_time: float
    prompt_time: float
    completion_time: float
    total_time: float
    created: float


class ChatLogprobs(Struct):
    content: list[TokenLogprob] | None
    refusal: None = None


class TextLogprobs(Struct):
    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class Message(Struct):
    role: str
    content: str | None
    tool_calls: list[ToolCall] | None
    reasoning: str | UnsetType = UNSET


class Delta(Struct, omit_defaults=True):
    role: str | None = None
    content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCall] | None = None


class ChatChoice(Struct):
    finish_reason: str
    index: int
    message: Message
    logprobs: ChatLogprobs | None
    reasoning_logprobs: None = None


class TextChoice(Struct):
    index: int
    text: str
    finish_reason: str
    logprobs: TextLogprobs | None
    tokens: None = None


class DeltaChoice(Struct, omit_defaults=True):
    delta: Delta
    index: int
    finish_reason: str | None = None
    logprobs: ChatLogprobs | None = None


class TextDeltaChoice(Struct, omit_defaults=True):
    index: int
    text: str
    finish_reason: str | None = None
    logprobs: TextLogprobs | None = None


class Answer(Struct):
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


class Chunk(Struct):
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
