"""A whole (not streamed) answer of an engine turned into the caller's, and the errors an engine answers with."""

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import UNSET

from weighbridge.errors import InvalidError, UnavailableError
from weighbridge.gateway.answers.rendering import (
    AnswerIdentity,
    Elapsed,
    chat_logprobs,
    reasoning_of,
    text_logprobs,
    time_info_of,
    usage_of,
)
from weighbridge.gateway.answers.shapes import (
    UNREADABLE,
    Answer,
    ChatChoice,
    EngineAnswer,
    EngineChoice,
    EngineError,
    EngineMessage,
    EngineRefusal,
    EngineUsage,
    Message,
    TextChoice,
    finish_word,
)
from weighbridge.structs import Frozen

_DECODER: Final = msgspec.json.Decoder(EngineAnswer)
_ENCODER: Final = msgspec.json.Encoder()
ANSWER_BYTES_MAX: Final = 32 * 1024 * 1024
_MESSAGE_CHARS_MAX: Final = 500
_CONTEXT_WORDS: Final = ("context size", "context length", "n_ctx", "maximum context")


class WholeAnswer(Frozen, frozen=True):
    body: bytes
    usage: EngineUsage | None


def whole_answer(received: bytes, identity: AnswerIdentity, elapsed: Elapsed) -> WholeAnswer:
    """Raises UnavailableError for what is no answer, WrongIdentityError when another replica gave it."""
    try:
        answer = _DECODER.decode(received)
    except UNREADABLE as error:
        raise UnavailableError("The engine's answer is not JSON", code="engine_failed") from error
    identity.check(answer.model)
    if not answer.choices:
        raise UnavailableError("The engine's answer has no choices", code="engine_failed")
    body = Answer(
        id=identity.answer_id,
        choices=_choices(answer.choices, identity),
        created=int(identity.created_unix_s),
        model=identity.endpoint_id,
        object="chat.completion" if identity.is_chat else "text_completion",
        system_fingerprint=identity.fingerprint,
        time_info=time_info_of(identity.created_unix_s, elapsed, answer.timings),
        usage=UNSET if answer.usage is None else usage_of(answer.usage),
        service_tier_used=UNSET if identity.tier_used is None else identity.tier_used,
    )
    return WholeAnswer(_ENCODER.encode(body), answer.usage)


def refusal_of(received: bytes, identity: AnswerIdentity) -> InvalidError:
    """An engine's 4xx for what only it can judge, such as a prompt longer than its context."""
    message = _refusal_message(received).replace(identity.served_name, identity.endpoint_id)
    message = message[:_MESSAGE_CHARS_MAX]
    if any(words in message for words in _CONTEXT_WORDS):
        return InvalidError(
            f"Please reduce the length of the messages or completion. {message}",
            code="context_length_exceeded",
        )
    return InvalidError(message or "The engine refused the request", code="wrong_api_format")


def _refusal_message(received: bytes) -> str:
    try:
        refusal = msgspec.json.decode(received, type=EngineRefusal)
    except UNREADABLE:
        return ""
    if isinstance(refusal.error, EngineError):
        return refusal.error.message
    return refusal.error or refusal.message


def _choices(
    choices: Sequence[EngineChoice], identity: AnswerIdentity
) -> Sequence[ChatChoice] | Sequence[TextChoice]:
    if identity.is_chat and len(choices) == 1:
        return (_chat_choice(choices[0], identity.top_logprobs),)
    if identity.is_chat:
        return [_chat_choice(choice, identity.top_logprobs) for choice in choices]
    return [
        TextChoice(
            choice.index,
            choice.text or "",
            finish_word(choice.finish_reason),
            text_logprobs(choice.logprobs, identity.top_logprobs, 0),
        )
        for choice in choices
    ]


def _chat_choice(choice: EngineChoice, top: int) -> ChatChoice:
    message = choice.message or EngineMessage()
    reasoning = reasoning_of(message)
    return ChatChoice(
        finish_word(choice.finish_reason),
        choice.index,
        Message(
            message.role or "assistant",
            message.content,
            message.tool_calls or None,
            UNSET if reasoning is None else reasoning,
        ),
        None if choice.logprobs is None else chat_logprobs(choice.logprobs, top),
    )
