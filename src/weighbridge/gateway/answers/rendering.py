"""Parts of an answer in the public API's form: who answers, usage, times, choices and logprobs."""

from collections.abc import Sequence

from weighbridge.errors import UnavailableError
from weighbridge.gateway.answers.shapes import (
    ChatLogprobs,
    CompletionDetails,
    EngineLogprobs,
    EngineMessage,
    EngineTimings,
    EngineUsage,
    PromptDetails,
    TextLogprobs,
    TimeInfo,
    Usage,
)
from weighbridge.structs import Frozen


class WrongIdentityError(UnavailableError):
    """What answers is not the replica that was routed to (R15, G12): it must get no further request."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="wrong_identity")


class AnswerIdentity(Frozen, frozen=True):
    """What an answer says of itself: to the caller, and (`served_name`) what the engine must say of itself."""

    answer_id: str
    is_chat: bool
    endpoint_id: str
    fingerprint: str
    served_name: str
    created_unix_s: float
    tier_used: str | None = None
    top_logprobs: int = 0
    shows_usage: bool = True
    """Of a stream: whether its last chunk tells what it used."""

    def check(self, model: str) -> None:
        if model != self.served_name:
            raise WrongIdentityError(f"An engine of {self.endpoint_id} answered as another replica")


class Elapsed(Frozen, frozen=True):
    """Seconds from the request's arrival to its first answer bytes and to now."""

    first_s: float
    total_s: float


def usage_of(usage: EngineUsage) -> Usage:
    prompt, completion = usage.prompt_tokens, usage.completion_tokens or 0
    prompt_details = usage.prompt_tokens_details
    details = usage.completion_tokens_details
    return Usage(
        prompt,
        completion,
        prompt + completion,
        0,
        PromptDetails((prompt_details and prompt_details.cached_tokens) or 0),
        CompletionDetails((details and details.reasoning_tokens) or 0),
    )


def time_info_of(
    created_unix_s: float, elapsed: Elapsed, timings: EngineTimings | None
) -> TimeInfo:
    """The engine's own figures where it gives them; the rest of the total is queueing and transport."""
    if timings is None or timings.prompt_ms is None or timings.predicted_ms is None:
        first_s, total_s = elapsed.first_s, elapsed.total_s
        return TimeInfo(0.0, first_s, max(0.0, total_s - first_s), total_s, created_unix_s)
    prompt_s, completion_s = timings.prompt_ms / 1000, timings.predicted_ms / 1000
    return TimeInfo(
        queue_time=max(0.0, elapsed.total_s - prompt_s - completion_s),
        prompt_time=max(0.0, prompt_s),
        completion_time=max(0.0, completion_s),
        total_time=elapsed.total_s,
        created=created_unix_s,
    )


def reasoning_of(message: EngineMessage) -> str | None:
    """Releases of vLLM have had both names for it; llama.cpp has the longer one."""
    return message.reasoning or message.reasoning_content or None


def chat_logprobs(logprobs: EngineLogprobs | None, top: int) -> ChatLogprobs | None:
    """`top` is how many alternatives the caller asked for; the engine is asked for one at least."""
    if logprobs is None:
        return None
    for entry in logprobs.content or ():
        del entry.top_logprobs[top:]
    return ChatLogprobs(logprobs.content)


def text_logprobs(logprobs: EngineLogprobs | None, top: int, offset: int) -> TextLogprobs | None:
    """`top` as in `chat_logprobs`; `offset` is the characters of the choice's text before these tokens."""
    if logprobs is None:
        return None
    if logprobs.content is None:
        tokens = logprobs.tokens or []
        return TextLogprobs(
            text_offset=logprobs.text_offset or _offsets(tokens, offset),
            token_logprobs=logprobs.token_logprobs or [],
            tokens=tokens,
            top_logprobs=logprobs.top_logprobs or [],
        )
    tokens = [entry.token for entry in logprobs.content]
    return TextLogprobs(
        text_offset=_offsets(tokens, offset),
        token_logprobs=[entry.logprob for entry in logprobs.content],
        tokens=tokens,
        top_logprobs=[
            {other.token: other.logprob for other in entry.top_logprobs[:top]}
            for entry in logprobs.content
        ],
    )


def _offsets(tokens: Sequence[str], offset: int) -> list[int]:
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token)
    return offsets
