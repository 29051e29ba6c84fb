"""Chat requests that need no check beyond their types: read and written anew in one step each.

Most requests are of this kind. What this schema does not take, for whatever reason, is read again in full
(`reading`, `checks`, `writing`), which also finds the words for a refusal; what it takes, the full way would take and
write the same.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from weighbridge.gateway.limits.estimate import (
    CHARS_PER_TOKEN,
    COMPLETION_TOKENS_GUESS,
    MESSAGE_TOKENS,
    TokenEstimate,
)
from weighbridge.gateway.requests.shapes import (
    MESSAGES_MAX,
    Penalty,
    Seed,
    Stop,
    StreamOptions,
    Temperature,
    Text,
    Tokens,
    TopP,
)
from weighbridge.gateway.requests.writing import NO_MODEL


class PlainMessage(Struct, forbid_unknown_fields=True, gc=False):
    role: Literal["system", "user", "assistant"]
    content: str | list[Text]


class PlainChat(Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """As `shapes.ChatRequest`; its members are in the order in which an engine's body has them."""

    model: str
    messages: Annotated[list[PlainMessage], Meta(min_length=1, max_length=MESSAGES_MAX)]
    max_completion_tokens: Tokens | None = None
    max_tokens: Tokens | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    n: Literal[1] | None = None
    seed: Seed | None = None
    stop: Stop | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None


_BACKSLASH = 0x5C
"""A number, as in `answers.sse`."""
_DECODER = msgspec.json.Decoder(PlainChat)
_ENCODER = msgspec.json.Encoder()
_WITH_USAGE = StreamOptions(include_usage=True)


def read_plain(text: bytes) -> PlainChat | None:
    """None for anything that is not plain, be it right or wrong."""
    if _BACKSLASH in text and b"\\u" in text:
        # Only without these does each text in the request have one form, which `write_plain` builds on.
        return None
    try:
        return _DECODER.decode(text)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return None


def write_plain(request: PlainChat, text: bytes) -> bytes | None:
    """The engine's body without its model: what follows the model's value. Changes `request`, which came from `text`.

    None when some object in `text` may name a member twice, of which the decoder has taken the last; or for
    members that do not go together. Every colon of `text` is in a string, and then again in what is written, or ends
    the name of a member; so the counts are equal only when all members are there again.
    """
    colons = text.count(b":") - request.model.count(":")
    newer, older = request.max_completion_tokens, request.max_tokens
    if newer is not None:
        if older is not None:
            return None
        request.max_completion_tokens, request.max_tokens = None, newer
    if request.max_tokens == -1:
        request.max_tokens = None
        colons -= 1
    options = request.stream_options
    if request.stream:
        colons += 2 if options is None else 1 - (options.include_usage is not None)
        request.stream_options = _WITH_USAGE
    elif options is not None:
        return None
    elif request.stream is False:
        request.stream = None
        colons -= 1
    request.model = ""
    written = _ENCODER.encode(request)
    return written[len(NO_MODEL) :] if written.count(b":") == colons else None


def estimate_plain(request: PlainChat) -> TokenEstimate:
    """As `estimate_tokens`, of a request that was written."""
    prompt = 0
    for message in request.messages:
        content = message.content
        prompt += MESSAGE_TOKENS
        if isinstance(content, str):
            prompt += -(-len(content) // CHARS_PER_TOKEN)
        else:
            prompt += sum(-(-len(part.text) // CHARS_PER_TOKEN) for part in content)
    limit = request.max_tokens
    if limit is None:
        return TokenEstimate(prompt, COMPLETION_TOKENS_GUESS, 1)
    return TokenEstimate(prompt, limit)
