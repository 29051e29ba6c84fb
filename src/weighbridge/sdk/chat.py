"""A thin chat client: whole answers and checked streams; other parameters pass through as they are."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from json import JSONDecodeError, loads

from weighbridge.sdk.errors import ConnectionFailedError, StreamError
from weighbridge.sdk.fields import Fields
from weighbridge.sdk.transport import Json, Transport

Message = Mapping[str, object]

_PATH = "/v1/chat/completions"
_END = "[DONE]"


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    text: str
    finish_reason: str | None
    system_fingerprint: str | None
    raw: Json = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class ChatChunk:
    """One event of a stream; `text` may be empty."""

    text: str
    finish_reason: str | None
    system_fingerprint: str | None
    raw: Json = field(repr=False, compare=False)


class ChatStream:
    """Iterate to the end to read the answer; raises StreamError where the stream breaks off.

    Afterwards `text` is the answer, `finish_reason` why it ended, `fingerprints` all that were seen, and
    `marked_done` tells whether the closing `[DONE]` came (some servers send none).
    """

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self.text = ""
        self.finish_reason: str | None = None
        self.fingerprints: frozenset[str] = frozenset()
        self.marked_done = False

    def __iter__(self) -> Iterator[ChatChunk]:
        try:
            for line in self._lines:
                if not line.startswith("data:"):
                    continue
                data = line[len("data:") :].strip()
                if data == _END:
                    self.marked_done = True
                    break
                yield self._took(self._event(data))
        except ConnectionFailedError as error:
            raise StreamError(f"The stream broke off: {error.message}", text=self.text) from error
        if not self.marked_done and self.finish_reason is None:
            raise StreamError("The stream ended before the answer did.", text=self.text)

    def _event(self, data: str) -> Fields:
        try:
            event = Fields(loads(data), "an event of the stream")
        except JSONDecodeError as error:
            raise StreamError(
                "The stream carries an event that is not JSON.", text=self.text
            ) from error
        if (problem := event.part_or_none("error")) is not None:
            raise StreamError(
                problem.text_or_none("message") or "The server reported an error in the stream.",
                text=self.text,
                status=event.integer_or_none("status_code"),
                code=problem.text_or_none("code"),
            )
        return event

    def _took(self, event: Fields) -> ChatChunk:
        text, finish_reason = "", None
        for choice in event.parts("choices", "a choice"):
            delta = choice.part_or_none("delta")
            text += (delta.text_or_none("content") if delta is not None else None) or ""
            finish_reason = choice.text_or_none("finish_reason") or finish_reason
        fingerprint = event.text_or_none("system_fingerprint")
        self.text += text
        self.finish_reason = finish_reason or self.finish_reason
        if fingerprint is not None:
            self.fingerprints |= {fingerprint}
        return ChatChunk(text, finish_reason, fingerprint, event.raw)


class Chat:
    """`model` is an endpoint's id. Needs an inference key."""

    def __init__(self, transport: Transport, key: Callable[[], str]) -> None:
        self._transport = transport
        self._key = key

    def create(self, model: str, messages: Sequence[Message], **parameters: object) -> ChatAnswer:
        """A whole answer. Repeated after a passing failure: an answer has no effect but its cost."""
        body: Json = {"model": model, "messages": list(messages), **parameters}
        answer = Fields(
            self._transport.request("POST", _PATH, key=self._key(), body=body), "a chat completion"
        )
        choices = answer.parts("choices", "a choice")
        first = choices[0] if choices else None
        message = first.part_or_none("message") if first is not None else None
        return ChatAnswer(
            text=(message.text_or_none("content") if message is not None else None) or "",
            finish_reason=first.text_or_none("finish_reason") if first is not None else None,
            system_fingerprint=answer.text_or_none("system_fingerprint"),
            raw=answer.raw,
        )

    @contextmanager
    def stream(
        self, model: str, messages: Sequence[Message], **parameters: object
    ) -> Iterator[ChatStream]:
        """`with client.chat.stream(…) as stream: for chunk in stream: …`; leaving early hangs up."""
        body: Json = {"model": model, "messages": list(messages), **parameters, "stream": True}
        with self._transport.stream(_PATH, key=self._key(), body=body) as lines:
            yield ChatStream(lines)
