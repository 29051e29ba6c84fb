"""How many tokens a request may use, guessed before it is sent; corrected by the engine's own count."""

from collections.abc import Mapping, Sequence
from typing import Final

from weighbridge.structs import Frozen

CHARS_PER_TOKEN: Final = 4
MESSAGE_TOKENS: Final = 4
"""What a chat template adds to each message."""
COMPLETION_TOKENS_GUESS: Final = 512
"""For a request that sets no limit of its own."""


class TokenEstimate(Frozen, frozen=True):
    """`unlimited` is how many of the answers have no limit of their own; `completion` has a guess for them."""

    prompt: int
    completion: int
    unlimited: int = 0

    @property
    def total(self) -> int:
        return self.prompt + self.completion

    def within(self, context_tokens: int | None) -> int:
        """All of it; an answer without a limit may fill what the prompt leaves of the context, where that is known."""
        if not self.unlimited or context_tokens is None:
            return self.prompt + self.completion
        return self.prompt + self.unlimited * max(0, context_tokens - self.prompt)


def estimate_tokens(body: Mapping[str, object]) -> TokenEstimate:
    """From an engine body (`requests.writing.engine_body`)."""
    choices = _whole(body.get("n")) or 1
    limit = _whole(body.get("max_tokens"))
    prompt = _chat_tokens(body.get("messages")) + _prompt_tokens(body.get("prompt"))
    if limit is None:
        return TokenEstimate(prompt, choices * COMPLETION_TOKENS_GUESS, choices)
    return TokenEstimate(prompt, choices * max(0, limit))


def _chat_tokens(messages: object) -> int:
    if not isinstance(messages, Sequence):
        return 0
    return sum(
        MESSAGE_TOKENS + _text_tokens(message.get("content"))
        for message in messages
        if isinstance(message, Mapping)
    )


def _text_tokens(content: object) -> int:
    if isinstance(content, str):
        return -(-len(content) // CHARS_PER_TOKEN)
    if isinstance(content, Sequence):
        return sum(_text_tokens(part.get("text")) for part in content if isinstance(part, Mapping))
    return 0


def _prompt_tokens(prompt: object) -> int:
    """A text, tokens, or several of either."""
    if isinstance(prompt, str):
        return _text_tokens(prompt)
    if isinstance(prompt, Sequence):
        return sum(1 if isinstance(part, int) else _prompt_tokens(part) for part in prompt)
    return 0


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) else None
