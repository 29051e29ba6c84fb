"""The request as the engine gets it: written anew from the checked values (G9), in the engine's own terms."""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from weighbridge.gateway.requests.shapes import (
    Assistant,
    ChatRequest,
    CompletionRequest,
    Developer,
    InferenceRequest,
    JsonObjectFormat,
    JsonSchemaFormat,
    Message,
    Text,
    Tool,
)

_SAMPLING: Final = (
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "n",
    "seed",
    "stop",
    "temperature",
    "top_p",
)

Body = Mapping[str, object]


def engine_body(request: InferenceRequest) -> Body:
    """All members but `model`, which is each replica's own (`model_member`).

    Left out because they change nothing in the answer: user, service_tier, prompt_cache_key, prediction.
    """
    body = _chat(request) if isinstance(request, ChatRequest) else _completion(request)
    for name in _SAMPLING:
        body[name] = getattr(request, name)
    if request.stream:
        # Usage is always asked for: it goes on the finish chunk and into the access log.
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    return {name: value for name, value in body.items() if value is not None}


NO_MODEL: Final = b'{"model":""'
"""What a body without its model begins with; `write_body` leaves it out."""


def write_body(body: Body) -> bytes:
    """What follows the model's value, the same for every replica."""
    return msgspec.json.encode({"model": "", **body})[len(NO_MODEL) :]


def model_member(served_name: str) -> bytes:
    """What comes before `write_body`."""
    return b'{"model":' + msgspec.json.encode(served_name)


def _chat(request: ChatRequest) -> dict[str, object]:
    tools = request.tools or None
    return {
        "messages": [_message(message) for message in request.messages],
        "max_tokens": _limit(request.max_completion_tokens, request.max_tokens),
        "min_tokens": _limit(request.min_completion_tokens, request.min_tokens),
        "logprobs": request.logprobs or None,
        # llama.cpp takes 0 for no logprobs at all; the one too many is taken out of the answer.
        "top_logprobs": max(1, request.top_logprobs or 0) if request.logprobs else None,
        "reasoning_effort": "none" if request.disable_reasoning else request.reasoning_effort,
        "response_format": _response_format(request),
        "tools": tools,
        "tool_choice": request.tool_choice if tools else None,
        "parallel_tool_calls": request.parallel_tool_calls if tools else None,
    }


def _completion(request: CompletionRequest) -> dict[str, object]:
    return {
        "prompt": request.prompt,
        "max_tokens": _limit(request.max_tokens, None),
        "min_tokens": _limit(request.min_tokens, None),
        "logprobs": None if request.logprobs is None else max(1, request.logprobs),
    }


def _limit(newer: int | None, older: int | None) -> int | None:
    """−1 stands for the longest possible, which engines take from the absence of a limit."""
    value = newer if newer is not None else older
    return None if value == -1 else value


def _message(message: Message) -> Body:
    written: dict[str, object] = {"role": _role(message), "content": _content(message)}
    if message.name is not None:
        written["name"] = message.name
    if isinstance(message, Tool):
        written["tool_call_id"] = message.tool_call_id
    if isinstance(message, Assistant) and message.tool_calls:
        written["tool_calls"] = [
            {"id": call.id, "type": "function", "function": call.function}
            for call in message.tool_calls
        ]
    return written


def _role(message: Message) -> str:
    if isinstance(message, Developer):
        # The newer name of the same role; chat templates know the older one.
        return "system"
    return str(message.__struct_config__.tag)


def _content(message: Message) -> str | Sequence[Body] | None:
    if message.content is None:
        return message.refusal if isinstance(message, Assistant) else None
    if isinstance(message.content, str):
        return message.content
    return [
        {"type": "text", "text": part.text} for part in message.content if isinstance(part, Text)
    ]


def _response_format(request: ChatRequest) -> Body | None:
    wanted = request.response_format
    if isinstance(wanted, JsonObjectFormat):
        return {"type": "json_object"}
    if isinstance(wanted, JsonSchemaFormat):
        return {"type": "json_schema", "json_schema": wanted.json_schema}
    return None
