"""What a request has in common with others, so that one replica's prompt cache can serve them all."""

from collections.abc import Iterator, Sequence

from weighbridge.gateway.requests.shapes import (
    ChatRequest,
    CompletionRequest,
    InferenceRequest,
    Message,
    Text,
    User,
)
from weighbridge.routing.options import Affinity

PREFIX_CHARS = 1024
"""How much of a prompt's beginning counts in prefix mode: some 256 tokens, two blocks of a prefix cache."""
_SESSION, _USER, _PREFIX = "s:", "u:", "p:"


def affinity_key(request: InferenceRequest, mode: Affinity) -> str | None:
    """None for a request that may go anywhere.

    In prefix mode a chat is known by what comes before its second turn, so that it keeps its key as it grows.
    """
    if mode is Affinity.OFF:
        return None
    if request.prompt_cache_key:
        return _SESSION + request.prompt_cache_key
    if request.user:
        return _USER + request.user
    if mode is not Affinity.PREFIX:
        return None
    if isinstance(request, ChatRequest):
        return _PREFIX + _beginning(_opening(request.messages))
    return _prompt_key(request)


def _prompt_key(request: CompletionRequest) -> str | None:
    """Of a text or of tokens; several prompts in one request have no common beginning."""
    prompt = request.prompt
    if isinstance(prompt, str):
        return _PREFIX + prompt[:PREFIX_CHARS]
    if isinstance(prompt[0], int):
        return _PREFIX + ",".join(map(str, prompt[: PREFIX_CHARS // 4]))
    return None


def _opening(messages: Sequence[Message]) -> Iterator[str]:
    for message in messages:
        yield f"{message.__struct_config__.tag}:"
        content = message.content
        if isinstance(content, str):
            yield content
        elif content is not None:
            yield from (part.text for part in content if isinstance(part, Text))
        if isinstance(message, User):
            return


def _beginning(texts: Iterator[str]) -> str:
    found, left = [], PREFIX_CHARS
    for text in texts:
        found.append(text[:left])
        left -= len(found[-1])
        if left <= 0:
            break
    return "".join(found)
