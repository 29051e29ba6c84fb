"""What a well-typed request may not ask: what goes together, and what the endpoint's engine can honour.

An option that an engine would ignore is refused here, never dropped in silence.
"""

from collections.abc import Sequence

from weighbridge.errors import InvalidError
from weighbridge.gateway.requests.headers import NEWEST_PATCH, VersionPatch
from weighbridge.gateway.requests.schemas import check_schema
from weighbridge.gateway.requests.shapes import (
    PROMPTS_MAX,
    Assistant,
    ChatRequest,
    CompletionRequest,
    ImagePart,
    ImageUrlPart,
    InferenceRequest,
    JsonSchemaFormat,
    Message,
    Tool,
    ToolChoice,
    User,
)
from weighbridge.routing.model import EndpointRoute


def check_request(
    request: InferenceRequest, endpoint: EndpointRoute, patch: VersionPatch = NEWEST_PATCH
) -> None:
    """Raises InvalidError naming the member and, where there is one, what to send instead.

    Version 1 of the API's rules leaves open how messages and tool calls follow each other, whether a
    `tool_choice` has tools, and what a strict schema looks like (wire.md §3.6).
    """
    if isinstance(request, ChatRequest):
        _check_chat(request, endpoint, strict=patch > 1)
    else:
        _check_completion(request, endpoint)


def _check_chat(request: ChatRequest, endpoint: EndpointRoute, *, strict: bool) -> None:
    _check_messages(request.messages, strict=strict)
    _check_tools(request, endpoint, strict=strict)
    _check_reasoning(request, endpoint)
    if request.model_parameters:
        raise _unsupported("model_parameters")
    if request.logprobs and not endpoint.logprobs:
        raise _unsupported("logprobs")
    if request.top_logprobs and not request.logprobs:
        raise _invalid("top_logprobs", "needs 'logprobs': true")
    _check_same(request.max_tokens, request.max_completion_tokens, "max_tokens")
    _check_same(request.min_tokens, request.min_completion_tokens, "min_tokens")
    _check_min_tokens(request.min_completion_tokens or request.min_tokens, endpoint)
    _check_choices(request.n or 1, endpoint)
    wanted = request.response_format
    if isinstance(wanted, JsonSchemaFormat):
        if not endpoint.json_schema:
            raise _unsupported("response_format")
        check_schema(
            wanted.json_schema.schema,
            strict=strict and wanted.json_schema.strict is True,
            where="body.response_format.json_schema.schema",
        )


def _check_completion(request: CompletionRequest, endpoint: EndpointRoute) -> None:
    for name, value in (
        ("echo", request.echo),
        ("grammar_root", request.grammar_root),
        ("return_raw_tokens", request.return_raw_tokens),
        ("suffix", request.suffix),
    ):
        if value:
            raise _unsupported(name)
    if (request.best_of or 1) > 1:
        raise _unsupported("best_of")
    if request.reasoning_format not in (None, "none"):
        raise _unsupported("reasoning_format")
    if request.logprobs is not None and not endpoint.logprobs:
        raise _unsupported("logprobs")
    _check_min_tokens(request.min_tokens, endpoint)
    _check_choices((request.n or 1) * _prompt_count(request.prompt), endpoint)


def _prompt_count(prompt: str | Sequence[object]) -> int:
    if isinstance(prompt, str):
        return 1
    kinds = {type(part) for part in prompt}
    if len(kinds) != 1:
        raise _invalid("prompt", "mixes texts and tokens")
    if kinds == {int}:
        return 1
    if len(prompt) > PROMPTS_MAX:
        raise _invalid("prompt", f"has more than {PROMPTS_MAX} prompts")
    return len(prompt)


def _check_messages(messages: Sequence[Message], *, strict: bool) -> None:
    """If `strict`: every call of a tool is answered right after it, once; no answer without a call."""
    for index, message in enumerate(messages):
        if isinstance(message, User):
            _check_text_only(message, f"messages[{index}]")
        elif isinstance(message, Assistant):
            _check_assistant(message, f"messages[{index}]")
    if strict:
        _check_calls(messages)


def _check_calls(messages: Sequence[Message]) -> None:
    open_calls: set[str] = set()
    seen_calls: set[str] = set()
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if isinstance(message, Tool):
            if message.tool_call_id not in open_calls:
                raise _invalid(where, "answers no tool call of the message before it")
            open_calls.discard(message.tool_call_id)
            continue
        if open_calls:
            raise _invalid(
                where, "stands where a tool call of the message before it needs an answer"
            )
        if isinstance(message, Assistant):
            for call in message.tool_calls or ():
                if call.id in seen_calls:
                    raise _invalid(where, "uses the id of an earlier tool call")
                open_calls.add(call.id)
                seen_calls.add(call.id)
    if open_calls:
        raise _invalid(f"messages[{len(messages) - 1}]", "has a tool call that is not answered")


def _check_text_only(message: User, where: str) -> None:
    if not isinstance(message.content, str) and any(
        isinstance(part, ImageUrlPart | ImagePart) for part in message.content
    ):
        # Nothing is fetched for a caller, so an image's address cannot reach into the network.
        raise _invalid(where, "has an image; this endpoint reads text only")


def _check_assistant(message: Assistant, where: str) -> None:
    if message.content is None and not message.tool_calls and message.refusal is None:
        raise _invalid(where, "has neither content nor tool_calls")


def _check_tools(request: ChatRequest, endpoint: EndpointRoute, *, strict: bool) -> None:
    if not request.tools:
        if strict and request.tool_choice not in (None, "none"):
            raise _invalid("tool_choice", "needs 'tools'")
        if not endpoint.tools and any(_is_of_tools(message) for message in request.messages):
            raise _unsupported("messages of role 'tool'")
        return
    if not endpoint.tools:
        raise _unsupported("tools")
    names = [tool.function.name for tool in request.tools]
    if len(set(names)) != len(names):
        raise _invalid("tools", "name a function twice")
    if isinstance(request.tool_choice, ToolChoice):
        chosen = request.tool_choice.function.name
        if chosen not in names:
            raise _invalid("tool_choice", "names a function that is not in 'tools'")
    for index, tool in enumerate(request.tools):
        check_schema(
            tool.function.parameters or {},
            strict=strict and tool.function.strict is True,
            where=f"body.tools[{index}].function.parameters",
        )


def _is_of_tools(message: Message) -> bool:
    return isinstance(message, Tool) or (
        isinstance(message, Assistant) and bool(message.tool_calls)
    )


def _check_reasoning(request: ChatRequest, endpoint: EndpointRoute) -> None:
    """Asking for no reasoning is honoured by all. An engine that reasons keeps its reasoning apart from the answer;
    none is told to mix, hide, or remember it.
    """
    parsed = ("parsed", "text_parsed") if endpoint.reasoning else ()
    if request.reasoning_effort not in (None, "none") and not endpoint.reasoning:
        raise _unsupported("reasoning_effort")
    if request.reasoning_format not in (None, "none", *parsed):
        raise _unsupported(f"reasoning_format '{request.reasoning_format}'")
    if request.clear_thinking is False:
        raise _unsupported("clear_thinking")


def _check_same(value: int | None, other: int | None, name: str) -> None:
    if value is not None and other is not None and value != other:
        raise _invalid(name, "differs from its newer name; send one of the two")


def _check_min_tokens(count: int | None, endpoint: EndpointRoute) -> None:
    if count not in (None, 0) and not endpoint.min_tokens:
        raise _unsupported("min_tokens")


def _check_choices(count: int, endpoint: EndpointRoute) -> None:
    if count > endpoint.choices_max:
        raise _invalid("n", f"asks for {count} answers; this endpoint gives {endpoint.choices_max}")


def _invalid(name: str, what: str) -> InvalidError:
    return InvalidError(f"body.{name}: {name} {what}", code="wrong_api_format")


def _unsupported(name: str) -> InvalidError:
    return InvalidError(
        f"body.{name}: {name} is not supported by this endpoint", code="unsupported"
    )
