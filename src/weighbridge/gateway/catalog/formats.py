"""One endpoint as a model in a list (wire.md §3.5): the plain form, the public one, and those of two directories.

What is not known of an endpoint is null; prices are 0, as nothing is charged here.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum

from weighbridge.errors import InvalidError
from weighbridge.routing.model import EndpointRoute

Model = Mapping[str, object]
_SAMPLING = ("temperature", "top_p", "frequency_penalty", "presence_penalty", "seed", "stop")
_ALWAYS = (*_SAMPLING, "max_completion_tokens", "max_tokens", "logit_bias", "stream", "user")
_NO_PRICE = "0"


class Format(StrEnum):
    DEFAULT = "default"
    OPENROUTER = "openrouter"
    HUGGINGFACE = "huggingface"


def read_format(text: str | None) -> Format:
    """Raises InvalidError for one that there is not."""
    try:
        return Format(text or Format.DEFAULT)
    except ValueError:
        known = ", ".join(Format)
        raise InvalidError(
            f"format: there is no such format; there are: {known}", code="wrong_api_format"
        ) from None


def listed_model(endpoint: EndpointRoute, wanted: Format) -> Model:
    """As `/v1/models` shows it to its own callers."""
    return _WRITERS[wanted](endpoint)


def public_model(endpoint: EndpointRoute, wanted: Format) -> Model:
    """As `/public/v1/models` shows it to anybody; its usual form says more than that of `/v1/models`."""
    return _rich(endpoint) if wanted is Format.DEFAULT else _WRITERS[wanted](endpoint)


def _plain(endpoint: EndpointRoute) -> Model:
    return {
        "id": endpoint.endpoint_id,
        "object": "model",
        "created": endpoint.created_unix_s,
        "owned_by": endpoint.org_name,
    }


def _rich(endpoint: EndpointRoute) -> Model:
    can = _capabilities(endpoint)
    return {
        **_plain(endpoint),
        "name": endpoint.endpoint_id,
        "description": f"{endpoint.arch_id}, served by a dedicated endpoint",
        "hugging_face_id": None,
        "pricing": {"prompt": _NO_PRICE, "completion": _NO_PRICE},
        "capabilities": can,
        "supported_parameters": _parameters(endpoint),
        "architecture": {"modality": "text->text", "tokenizer": None, "instruct_type": None},
        "limits": {
            "max_context_length": endpoint.context_tokens,
            "max_completion_tokens": endpoint.context_tokens,
            "requests_per_minute": endpoint.limits.requests_minute,
            "tokens_per_minute": endpoint.limits.tokens_minute,
        },
        "datacenter_locations": [],
        "deprecated": False,
        "preview": False,
        "quantization": None,
    }


def _openrouter(endpoint: EndpointRoute) -> Model:
    features = {
        "tools": endpoint.tools,
        "json_mode": True,
        "structured_outputs": endpoint.json_schema,
        "reasoning": endpoint.reasoning,
    }
    return {
        "id": endpoint.endpoint_id,
        "hugging_face_id": None,
        "name": endpoint.endpoint_id,
        "created": endpoint.created_unix_s,
        "input_modalities": ["text"],
        "output_modalities": ["text"],
        "quantization": None,
        "context_length": endpoint.context_tokens,
        "max_output_length": endpoint.context_tokens,
        "pricing": {"prompt": _NO_PRICE, "completion": _NO_PRICE},
        "supported_sampling_parameters": [*_SAMPLING, "max_tokens", "logit_bias"],
        "supported_features": [name for name, has in features.items() if has],
        "datacenters": [],
    }


def _huggingface(endpoint: EndpointRoute) -> Model:
    return {
        **_plain(endpoint),
        "hugging_face_id": None,
        "context_length": endpoint.context_tokens,
        "pricing": {"input": 0, "output": 0},
        "supports_tools": endpoint.tools,
        "supports_structured_output": endpoint.json_schema,
    }


_WRITERS: Mapping[Format, Callable[[EndpointRoute], Model]] = {
    Format.DEFAULT: _plain,
    Format.OPENROUTER: _openrouter,
    Format.HUGGINGFACE: _huggingface,
}


def _capabilities(endpoint: EndpointRoute) -> Mapping[str, bool]:
    return {
        "streaming": True,
        "function_calling": endpoint.tools,
        "structured_outputs": endpoint.json_schema,
        "vision": False,
        "json_mode": True,
        "tools": endpoint.tools,
        "tool_choice": endpoint.tools,
        "parallel_tool_calls": endpoint.tools,
        "response_format": True,
        "reasoning": endpoint.reasoning,
    }


def _parameters(endpoint: EndpointRoute) -> Mapping[str, bool]:
    return {
        **dict.fromkeys(_ALWAYS, True),
        "logprobs": endpoint.logprobs,
        "top_logprobs": endpoint.logprobs,
        "min_completion_tokens": endpoint.min_tokens,
        "n": endpoint.choices_max > 1,
        "response_format": True,
        "tools": endpoint.tools,
        "tool_choice": endpoint.tools,
        "parallel_tool_calls": endpoint.tools,
        "reasoning_effort": endpoint.reasoning,
    }
