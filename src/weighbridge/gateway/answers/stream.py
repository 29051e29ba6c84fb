"""An engine's event stream turned into the caller's: same tokens, our identity, one clear end (G1, G2).

No I/O and no clock here: bytes and elapsed times go in, frames come out.
"""

from typing import Final

import msgspec

from weighbridge.errors import UnavailableError
from weighbridge.gateway.answers.rendering import (
    AnswerIdentity,
    Elapsed,
    WrongIdentityError,
    chat_logprobs,
    reasoning_of,
    text_logprobs,
    time_info_of,
    usage_of,
)
from weighbridge.gateway.answers.repeated import RepeatedEvents
from weighbridge.gateway.answers.shapes import (
    UNREADABLE,
    CalledFunction,
    Chunk,
    Delta,
    DeltaChoice,
    EngineAnswer,
    EngineChoice,
    EngineMessage,
    EngineTimings,
    EngineUsage,
    TextDeltaChoice,
    ToolCall,
    finish_word,
)
from weighbridge.gateway.answers.sse import SseEvent, SseParser, read_single_line

DONE_FRAME: Final = b"data: [DONE]\n\n"
_DONE: Final = b"[DONE]"
_DECODER: Final = msgspec.json.Decoder(EngineAnswer)
_ENCODER: Final = msgspec.json.Encoder()


class AnswerStream:
    """One streamed answer. `feed` returns the frames to send; `complete` is true once the last one was among them.

    `events` counts what the engine sent, `chunks` what carried tokens. While it is `ordinary`, what comes may be given
    to `repeated.frame` first, which costs less and whose answer, unless it is empty, is `feed`'s.

    Content goes on as it comes. Finish chunks are held until the engine's usage is there, because usage and
    times belong on the last of them; a tool call is held until it is whole.
    """

    __slots__ = (
        "_chunks", "_engine_fingerprint", "_events", "_finish", "_identity", "_open", "_parser", "_text_chars",
        "_text_index", "_timings", "_tool_calls", "complete", "ordinary", "repeated", "unsent", "usage",
    )  # fmt: skip

    def __init__(self, identity: AnswerIdentity) -> None:
        self.usage: EngineUsage | None = None
        self.complete = False
        self.unsent = b""
        """When `feed` has raised: the frames of the events before the one that failed."""
        self._identity = identity
        self._parser = SseParser()
        self.repeated = RepeatedEvents()
        self.ordinary = False
        self._events = 0
        self._chunks = 0
        self._finish: dict[int, str] = {}
        self._open: set[int] = set()
        self._tool_calls: dict[int, list[ToolCall]] = {}
        self._text_chars: dict[int, int] = {}
        self._text_index = 0
        self._timings: EngineTimings | None = None
        self._engine_fingerprint: str | None = None

    @property
    def events(self) -> int:
        return self._events + self.repeated.framed

    @property
    def chunks(self) -> int:
        return self._chunks + self.repeated.framed

    def feed(self, received: bytes, elapsed: Elapsed) -> bytes:
        """Raises UnavailableError when the engine fails or ends early, WrongIdentityError when it is another."""
        frames: list[bytes] = []
        try:
            if self._parser.between_events and received.endswith(b"\n\n"):
                for event in received[:-2].split(b"\n\n"):
                    self._one(event, frames, elapsed)
            else:
                self._any(received, frames, elapsed)
        except UnavailableError:
            self.unsent = b"".join(frames)
            raise
        self.ordinary = not self.complete and self._parser.between_events
        return b"".join(frames)

    def _one(self, event: bytes, frames: list[bytes], elapsed: Elapsed) -> None:
        """One event's bytes without its empty line, or what a split at empty lines makes of anything else."""
        if self.complete or not self._parser.between_events:
            self._any(event + b"\n\n", frames, elapsed)
            return
        whole = event + b"\n\n"
        frame = self.repeated.frame(whole)
        # The first event of a choice, which may tell its role, and what follows the last choice's end come but once.
        if not frame and self._open and self.repeated.learn(event, self._rewrite):
            frame = self.repeated.frame(whole)
        if frame:
            frames.append(frame)
        elif (single := read_single_line(event)) is not None:
            self._take(single, frames, elapsed)
        else:
            self._any(whole, frames, elapsed)

    def _any(self, received: bytes, frames: list[bytes], elapsed: Elapsed) -> None:
        for event in self._parser.feed(received):
            if self.complete:
                break
            self._take(event, frames, elapsed)

    def _take(self, event: SseEvent, frames: list[bytes], elapsed: Elapsed) -> None:
        if event.data == _DONE:
            frames.append(self.end(elapsed))
        else:
            self._event(event, frames)

    def _rewrite(self, data: bytes) -> bytes | None:
        """As `Rewrite` asks: only for an event with one choice that carries a text and nothing else."""
        try:
            answer = _DECODER.decode(data)
        except UNREADABLE:
            return None
        if len(answer.choices) != 1 or answer.model != self._identity.served_name:
            return None
        choice = answer.choices[0]
        plain = EngineAnswer(
            model=answer.model,
            choices=[EngineChoice(choice.index, delta=choice.delta, text=choice.text)],
            system_fingerprint=self._engine_fingerprint,
        )
        if answer != plain or choice.index not in self._open:
            return None
        if not self._identity.is_chat:
            self._count_text()
            self._text_index = choice.index
            made = TextDeltaChoice(choice.index, choice.text or "")
            return None if choice.delta is not None else _frame(self._chunk(made))
        message = choice.delta or EngineMessage()
        if message.tool_calls is not None or choice.text is not None:
            return None
        delta = Delta(
            role=message.role, content=message.content or None, reasoning=reasoning_of(message)
        )
        return _frame(self._chunk(DeltaChoice(delta, choice.index)))

    @property
    def finished(self) -> bool:
        """Whether every choice that began has its finish reason."""
        return bool(self._finish) and not self._open

    def end(self, elapsed: Elapsed) -> bytes:
        """The frames that are still to send when the engine has closed its stream.

        Raises UnavailableError when some choice has not finished: then the stream was cut (G2).
        """
        if self.complete:
            return b""
        if not self.finished:
            raise UnavailableError("The engine ended the answer early", code="answer_cut")
        self.complete = True
        frames = []
        last = max(self._finish)
        for index in sorted(self._finish):
            chunk = self._chunk(self._finish_choice(index))
            if index == last:
                chunk.time_info = time_info_of(
                    self._identity.created_unix_s, elapsed, self._timings
                )
                if self.usage is not None and self._identity.shows_usage:
                    chunk.usage = usage_of(self.usage)
                if self._identity.tier_used is not None:
                    chunk.service_tier_used = self._identity.tier_used
            frames.append(_frame(chunk))
        return b"".join([*frames, DONE_FRAME])

    def _event(self, event: SseEvent, frames: list[bytes]) -> None:
        self._events += 1
        try:
            answer = _DECODER.decode(event.data)
        except UNREADABLE as error:
            raise UnavailableError(
                "The engine sent an event that is not JSON", code="engine_failed"
            ) from error
        if event.name == b"error" or answer.error is not None:
            raise UnavailableError("The engine failed during the answer", code="engine_failed")
        self._check(answer)
        if answer.usage is not None:
            self.usage = answer.usage
        if answer.timings is not None:
            self._timings = answer.timings
        for choice in answer.choices:
            self._choice(choice, frames)

    def _check(self, answer: EngineAnswer) -> None:
        self._identity.check(answer.model)
        if self._engine_fingerprint is None:
            self._engine_fingerprint = answer.system_fingerprint
        elif answer.system_fingerprint not in (None, self._engine_fingerprint):
            # One answer never changes its version half-way (G1).
            raise WrongIdentityError("The engine changed its fingerprint during an answer")

    def _choice(self, choice: EngineChoice, frames: list[bytes]) -> None:
        self._open.add(choice.index)
        made = self._delta_choice(choice) if self._identity.is_chat else self._text_choice(choice)
        if made is not None:
            self._chunks += 1
            frames.append(_frame(self._chunk(made)))
        if choice.finish_reason is not None:
            calls = self._tool_calls.pop(choice.index, None)
            if calls:
                called = DeltaChoice(Delta(tool_calls=calls), choice.index)
                frames.append(_frame(self._chunk(called)))
            # What might follow the end of a choice is never ordinary.
            self.repeated.forget()
            self._finish[choice.index] = finish_word(choice.finish_reason)
            self._open.discard(choice.index)

    def _delta_choice(self, choice: EngineChoice) -> DeltaChoice | None:
        message = choice.delta or EngineMessage()
        for part in message.tool_calls or ():
            _merge(self._tool_calls.setdefault(choice.index, []), part)
        delta = Delta(
            role=message.role, content=message.content or None, reasoning=reasoning_of(message)
        )
        if delta == Delta() and choice.logprobs is None:
            return None
        return DeltaChoice(
            delta,
            choice.index,
            logprobs=chat_logprobs(choice.logprobs, self._identity.top_logprobs),
        )

    def _text_choice(self, choice: EngineChoice) -> TextDeltaChoice | None:
        if not choice.text and choice.logprobs is None:
            return None
        text = choice.text or ""
        self._count_text()
        offset = self._text_chars.get(choice.index, 0)
        self._text_chars[choice.index] = offset + len(text)
        logprobs = text_logprobs(choice.logprobs, self._identity.top_logprobs, offset)
        return TextDeltaChoice(choice.index, text, logprobs=logprobs)

    def _count_text(self) -> None:
        """What was framed by the pattern is of the choice that it was learned from."""
        if self.repeated.chars:
            before = self._text_chars.get(self._text_index, 0)
            self._text_chars[self._text_index] = before + self.repeated.chars
            self.repeated.chars = 0

    def _finish_choice(self, index: int) -> DeltaChoice | TextDeltaChoice:
        reason = self._finish[index]
        if self._identity.is_chat:
            return DeltaChoice(Delta(), index, finish_reason=reason)
        return TextDeltaChoice(index, "", finish_reason=reason)

    def _chunk(self, choice: DeltaChoice | TextDeltaChoice) -> Chunk:
        return Chunk(
            id=self._identity.answer_id,
            choices=(choice,),
            created=int(self._identity.created_unix_s),
            model=self._identity.endpoint_id,
            system_fingerprint=self._identity.fingerprint,
            object="chat.completion.chunk" if self._identity.is_chat else "text_completion",
        )


def _merge(calls: list[ToolCall], part: ToolCall) -> None:
    """Engines stream a call's arguments in pieces; callers of this API get each call whole."""
    index = part.index if part.index is not None else len(calls)
    if index >= len(calls):
        name = part.function.name
        calls.append(
            ToolCall(
                CalledFunction(name, part.function.arguments or ""), "function", part.id, len(calls)
            )
        )
        return
    call = calls[index]
    call.function.arguments = (call.function.arguments or "") + (part.function.arguments or "")


def _frame(chunk: Chunk) -> bytes:
    return b"data: " + _ENCODER.encode(chunk) + b"\n\n"
