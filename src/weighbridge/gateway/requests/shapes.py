"""The request bodies of `/v1/chat/completions` and `/v1/completions` as the public API defines them.

Source: the hosted API's schema, `additionalProperties: false` at every level. Only types and bounds are here;
what goes together and what an engine can do is in `checks`.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

MESSAGES_MAX = 10_000
BIASES_MAX = 1_024
STOP_CHARS_MAX = 1_024
TOOLS_MAX = 128
CHOICES_MAX = 8
PROMPTS_MAX = 1_024
TOKENS_MAX = 2**31 - 1

Penalty = Annotated[float, Meta(ge=-2, le=2)]
Tokens = Annotated[int, Meta(ge=-1, le=TOKENS_MAX)]
_Choices = Annotated[int, Meta(ge=1, le=CHOICES_MAX)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
TopP = Annotated[float, Meta(ge=0, le=1)]
_TopLogprobs = Annotated[int, Meta(ge=0, le=20)]
_StopText = Annotated[str, Meta(max_length=STOP_CHARS_MAX)]
Stop = _StopText | Annotated[list[_StopText], Meta(max_length=4)]
_Bias = Annotated[float, Meta(ge=-100, le=100)]
_Biases = Annotated[dict[str, _Bias], Meta(max_length=BIASES_MAX)]
_CacheKey = Annotated[str, Meta(max_length=1024)]
_Format = Literal["none", "parsed", "text_parsed", "raw", "hidden"]


class Text(Struct, tag_field="type", tag="text", forbid_unknown_fields=True):
    text: str


class ImageUrl(Struct, forbid_unknown_fields=True):
    url: str
    detail: str | None = None


class ImageUrlPart(Struct, tag_field="type", tag="image_url", forbid_unknown_fields=True):
    image_url: ImageUrl


class ImagePart(Struct, tag_field="type", tag="image", forbid_unknown_fields=True):
    image: object = None


class CalledFunction(Struct, forbid_unknown_fields=True):
    name: str
    arguments: str


class ToolCall(Struct, tag_field="type", tag="function", forbid_unknown_fields=True):
    id: str
    function: CalledFunction
    index: int | None = None


class System(Struct, tag_field="role", tag="system", forbid_unknown_fields=True):
    content: str | list[Text]
    name: str | None = None


class Developer(Struct, tag_field="role", tag="developer", forbid_unknown_fields=True):
    content: str | list[Text]
    name: str | None = None


class User(Struct, tag_field="role", tag="user", forbid_unknown_fields=True):
    content: str | list[Text | ImageUrlPart | ImagePart]
    name: str | None = None


class Assistant(Struct, tag_field="role", tag="assistant", forbid_unknown_fields=True):
    content: str | list[Text] | None = None
    name: str | None = None
    reasoning: str | list[Text] | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None


class Tool(Struct, tag_field="role", tag="tool", forbid_unknown_fields=True):
    content: str | list[Text]
    tool_call_id: str
    name: str | None = None


Message = System | Developer | User | Assistant | Tool


class Function(Struct, forbid_unknown_fields=True, omit_defaults=True):
    name: str
    description: str | None = None
    parameters: dict[str, object] | None = None
    strict: bool | None = None


class ToolDefinition(Struct, tag_field="type", tag="function", forbid_unknown_fields=True):
    function: Function


class FunctionName(Struct, forbid_unknown_fields=True):
    name: str


class ToolChoice(Struct, tag_field="type", tag="function", forbid_unknown_fields=True):
    function: FunctionName


class TextFormat(Struct, tag_field="type", tag="text", forbid_unknown_fields=True):
    pass


class JsonObjectFormat(Struct, tag_field="type", tag="json_object", forbid_unknown_fields=True):
    pass


class JsonSchema(Struct, forbid_unknown_fields=True, omit_defaults=True):
    name: str
    schema: dict[str, object]
    description: str | None = None
    strict: bool | None = None


class JsonSchemaFormat(Struct, tag_field="type", tag="json_schema", forbid_unknown_fields=True):
    json_schema: JsonSchema


class Prediction(Struct, tag_field="type", tag="content", forbid_unknown_fields=True):
    content: str | list[Text]


class StreamOptions(Struct, forbid_unknown_fields=True):
    include_usage: bool | None = None


class ChatRequest(Struct, forbid_unknown_fields=True):
    model: str
    messages: Annotated[list[Message], Meta(min_length=1, max_length=MESSAGES_MAX)]
    clear_thinking: bool | None = None
    disable_reasoning: bool | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: _Biases | None = None
    logprobs: bool | None = None
    top_logprobs: _TopLogprobs | None = None
    max_completion_tokens: Tokens | None = None
    max_tokens: Tokens | None = None
    min_completion_tokens: Tokens | None = None
    min_tokens: Tokens | None = None
    model_parameters: dict[str, object] | None = None
    n: _Choices | None = None
    parallel_tool_calls: bool | None = None
    prediction: Prediction | None = None
    prompt_cache_key: _CacheKey | None = None
    reasoning_effort: Literal["none", "low", "medium", "high"] | None = None
    reasoning_format: _Format | None = None
    response_format: TextFormat | JsonObjectFormat | JsonSchemaFormat | None = None
    seed: Seed | None = None
    service_tier: Literal["auto", "default", "flex", "priority"] | None = None
    stop: Stop | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Temperature | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    tools: Annotated[list[ToolDefinition], Meta(max_length=TOOLS_MAX)] | None = None
    top_p: TopP | None = None
    user: str | None = None


class CompletionRequest(Struct, forbid_unknown_fields=True):
    model: str
    prompt: str | Annotated[list[str | int | list[int]], Meta(min_length=1)]
    best_of: Annotated[int, Meta(ge=0, le=20)] | None = None
    echo: bool | None = None
    frequency_penalty: Penalty | None = None
    grammar_root: str | None = None
    logit_bias: _Biases | None = None
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    max_tokens: Tokens | None = None
    min_tokens: Tokens | None = None
    n: _Choices | None = None
    presence_penalty: Penalty | None = None
    prompt_cache_key: _CacheKey | None = None
    reasoning_format: _Format | None = None
    return_raw_tokens: bool | None = None
    seed: Seed | None = None
    stop: Stop | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    suffix: str | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    user: str | None = None


InferenceRequest = ChatRequest | CompletionRequest
