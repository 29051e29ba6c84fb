"""The chat command: one answer, or a conversation, streamed to the terminal."""

import sys
from typing import Annotated

import typer
from rich.text import Text

from weighbridge.cli.output import plain
from weighbridge.cli.session import Session, UsageError, with_session
from weighbridge.sdk.chat import Message

TURNS_MAX = 100
"""Messages of a conversation that are sent along; older ones are left out."""

PROMPT_CHARACTERS_MAX = 1024 * 1024


def chat(
    session: Session,
    endpoint: Annotated[
        str,
        typer.Argument(metavar="ENDPOINT", help="The endpoint's id: what clients call `model`."),
    ],
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="[PROMPT]",
            help="What to say; `-` reads it from stdin; without it, a conversation.",
        ),
    ] = None,
    *,
    system: Annotated[str | None, typer.Option(help="The system message.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer.")] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, max=2, help="0 for the likeliest words.")
    ] = None,
) -> None:
    """Chat with the model an endpoint serves."""
    parameters: dict[str, object] = {}
    if max_tokens is not None:
        parameters["max_completion_tokens"] = max_tokens
    if temperature is not None:
        parameters["temperature"] = temperature
    before: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    if prompt == "-":
        prompt = sys.stdin.read(PROMPT_CHARACTERS_MAX)
    if prompt is None:
        _converse(session, endpoint, before, parameters)
        return
    messages = [*before, {"role": "user", "content": prompt}]
    if session.output.as_json:
        answer = session.client.chat.create(endpoint, messages, **parameters)
        session.output.show(answer.raw, answer.text)
        return
    _answer(session, endpoint, messages, parameters)


def install(program: typer.Typer) -> None:
    program.command("chat", rich_help_panel="Use")(with_session(chat))


def _converse(
    session: Session, endpoint: str, before: list[Message], parameters: dict[str, object]
) -> None:
    if session.output.as_json or not sys.stdin.isatty():
        raise UsageError("Say something: give a prompt, or `-` to read it from stdin.")
    session.output.note("Ctrl-D ends the conversation, Ctrl-C an answer.")
    turns: list[Message] = []
    while True:
        try:
            said = session.output.err.input("› ")
        except (EOFError, KeyboardInterrupt):
            return
        if not said.strip():
            continue
        turns = [*turns, {"role": "user", "content": said}][-TURNS_MAX:]
        try:
            text = _answer(session, endpoint, [*before, *turns], parameters)
        except KeyboardInterrupt:
            session.output.note("\n(stopped)")
            turns.pop()
            continue
        turns.append({"role": "assistant", "content": text})


def _answer(
    session: Session, endpoint: str, messages: list[Message], parameters: dict[str, object]
) -> str:
    out = session.output.out
    with session.client.chat.stream(endpoint, messages, **parameters) as stream:
        for chunk in stream:
            out.print(Text(plain(chunk.text)), end="", soft_wrap=True)
            out.file.flush()
        out.print()
    session.output.note(f"[{', '.join(sorted(stream.fingerprints))}]")
    return stream.text
