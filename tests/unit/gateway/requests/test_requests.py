"""Hostile and wrong bodies are refused with one clear error; good ones are written anew for the engine."""

import json

import pytest

from weighbridge.errors import InvalidError, NotFoundError
from weighbridge.gateway.admission import CHAT_PATH, COMPLETIONS_PATH, Admitted, admit
from weighbridge.gateway.errors import error_answer
from weighbridge.gateway.requests.writing import model_member
from weighbridge.gateway.table import EMPTY_TABLES
from weighbridge.routing.model import EndpointRoute, KeyEntry, RouteTable

MESSAGES = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def endpoint(**changes: object) -> EndpointRoute:
    values: dict = {"deployed": True, "rolling_out": False, "replicas": (), **changes}
    return EndpointRoute("m", "org1", "one", "tiny", 0, **values)


def admitted(body: object, path: str = CHAT_PATH, **capabilities: object) -> Admitted:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return admit(
        path,
        text,
        content_type="application/json",
        content_encoding="",
        tables=EMPTY_TABLES.with_routes(RouteTable(1, (endpoint(**capabilities),))),
        key=KeyEntry("00", "key1", "org1"),
    )


def chat(**members: object) -> dict:
    return {"model": "m", "messages": MESSAGES, **members}


def schema(value: dict, *, strict: bool = False) -> dict:
    form = {"name": "s", "schema": value, "strict": strict}
    return chat(response_format={"type": "json_schema", "json_schema": form})


def deep(levels: int) -> bytes:
    return b'{"model":"m","messages":' + b"[" * levels + b"]" * levels + b"}"


def calls(*ids: str) -> dict:
    function = {"name": "f", "arguments": "{}"}
    made = [{"id": name, "type": "function", "function": function} for name in ids]
    return {"role": "assistant", "tool_calls": made}


def result(name: str) -> dict:
    return {"role": "tool", "tool_call_id": name, "content": "1"}


CHAT_REFUSALS: dict[str, tuple[object, str]] = {
    "b_empty": (b"", "Invalid JSON"),
    "b_not_json": (b"{model", "at line 1 column 2"),
    "b_array": ([], "must be one object"),
    "b_null": (None, "must be one object"),
    "b_not_utf8": (b'{"model":"\xff"}', "not Unicode"),
    "b_bom": (b"\xef\xbb\xbf{}", "Invalid JSON"),
    "b_long_number": (b'{"seed":' + b"9" * 5000 + b"}", "too long"),
    "b_deep": (deep(64), "nested deeper"),
    "b_very_deep": (deep(200_000), "nested deeper"),
    "g_model_missing": ({"messages": MESSAGES}, "required field `model`"),
    "g_model_list": (chat(model=["m"]), "body.model"),
    "g_model_dup_key": (b'{"model":"m","model":"n","messages":[]}', "names a member twice"),
    "g_n_1e6": (chat(n=1_000_000), "body.n"),
    "g_n_zero": (chat(n=0), "body.n"),
    "g_n_more_than_the_engine": (chat(n=2), "asks for 2 answers"),
    "g_logprobs_huge": (chat(logprobs=True, top_logprobs=10**6), "body.top_logprobs"),
    "g_top_logprobs_alone": (chat(top_logprobs=2), "needs 'logprobs'"),
    "g_max_tokens_neg": (chat(max_tokens=-2), "body.max_tokens"),
    "g_max_tokens_1e18": (chat(max_tokens=10**18), "body.max_tokens"),
    "g_max_tokens_text": (chat(max_tokens="5"), "body.max_tokens"),
    "g_max_tokens_twice": (chat(max_tokens=5, max_completion_tokens=6), "newer name"),
    "g_temperature_nan": (b'{"model":"m","temperature":NaN}', "NaN is not a JSON value"),
    "g_temperature_inf": (
        b'{"model":"m","messages":[{"role":"user","content":"h"}],"temperature":1e999}',
        "body.temperature",
    ),
    "g_temperature_high": (chat(temperature=2.1), "body.temperature"),
    "g_stop_10k": (chat(stop=["x"] * 10_000), "body.stop"),
    "g_bias_1m": (chat(logit_bias={str(i): 1 for i in range(100_000)}), "body.logit_bias"),
    "g_bias_high": (chat(logit_bias={"5": 101}), "body.logit_bias"),
    "g_messages_empty": (chat(messages=[]), "body.messages"),
    "g_messages_100k": (chat(messages=MESSAGES * 100_000), "body.messages"),
    "g_role_unknown": (chat(messages=[{"role": "root", "content": "x"}]), "body.messages[0].role"),
    "g_content_null": (
        chat(messages=[{"role": "user", "content": None}]),
        "body.messages[0].content",
    ),
    "g_content_lone_surrogate": (
        b'{"model":"m","messages":[{"role":"user","content":"\\ud800"}]}',
        "not Unicode",
    ),
    "g_assistant_empty": (chat(messages=[{"role": "assistant"}]), "neither content nor tool_calls"),
    "g_image_url_metadata_ip": (
        chat(
            messages=[
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}
                    ],
                }
            ]
        ),
        "reads text only",
    ),
    "g_image_data_bomb": (
        chat(messages=[{"role": "user", "content": [{"type": "image", "image": "x"}]}]),
        "reads text only",
    ),
    "g_prompt_embeds_pickle": (
        chat(prompt_embeds="gASV"),
        "property 'body.prompt_embeds' is unsupported",
    ),
    "g_template_kwargs": (
        chat(chat_template_kwargs={"a": 1}),
        "property 'body.chat_template_kwargs'",
    ),
    "g_chat_template_field": (chat(chat_template="{{ x }}"), "property 'body.chat_template'"),
    "g_extra_body_lora": (chat(lora=[{"id": 0}]), "property 'body.lora'"),
    "g_priority_field": (chat(priority=1), "property 'body.priority'"),
    "g_grammar": (chat(grammar="root ::= x"), "property 'body.grammar'"),
    "g_id_slot": (chat(id_slot=0), "property 'body.id_slot'"),
    "g_unknown_in_message": (
        chat(messages=[*MESSAGES, {"role": "user", "content": "x", "cache": 1}]),
        "body.messages[1].cache: property 'body.messages[1].cache' is unsupported",
    ),
    "g_stream_string": (chat(stream="true"), "body.stream"),
    "g_tools_not_able": (chat(tools=[TOOL]), "not supported by this endpoint"),
    "g_tool_choice_without_tools": (chat(tool_choice="auto"), "needs 'tools'"),
    "g_tool_messages_not_able": (
        chat(messages=[*MESSAGES, calls("a"), result("a")]),
        "not supported",
    ),
    "g_reasoning_effort": (chat(reasoning_effort="high"), "body.reasoning_effort"),
    "g_reasoning_format": (chat(reasoning_format="parsed"), "body.reasoning_format"),
    "g_keep_thinking": (chat(clear_thinking=False), "body.clear_thinking"),
    "g_min_tokens": (chat(min_tokens=5), "body.min_tokens"),
    "g_model_parameters": (chat(model_parameters={"x": 1}), "body.model_parameters"),
    "g_tier_unknown": (chat(service_tier="gold"), "body.service_tier"),
    "g_cache_key_long": (chat(prompt_cache_key="x" * 1025), "body.prompt_cache_key"),
    "g_schema_recursive": (
        schema({"$ref": "#/$defs/a", "$defs": {"a": {"properties": {"b": {"$ref": "#/$defs/a"}}}}}),
        "refers to itself",
    ),
    "g_schema_two_cycle": (
        schema(
            {
                "$ref": "#/$defs/a",
                "$defs": {
                    "a": {"items": {"$ref": "#/$defs/b"}},
                    "b": {"items": {"$ref": "#/$defs/a"}},
                },
            }
        ),
        "refers to itself",
    ),
    "g_schema_root_ref": (schema({"properties": {"a": {"$ref": "#"}}}), "not '#/$defs/…'"),
    "g_schema_url_ref": (schema({"$ref": "http://169.254.169.254/"}), "not '#/$defs/…'"),
    "g_schema_regex_redos": (schema({"type": "string", "pattern": "(a+)+$"}), "'pattern'"),
    "g_schema_wide": (schema({"anyOf": [{}] * 6000}), "more than 5000 parts"),
    "g_schema_strict_open": (
        schema({"type": "object"}, strict=True),
        "'additionalProperties': false",
    ),
    "g_schema_strict_old_defs": (schema({"definitions": {}}, strict=True), "'$defs'"),
}

TOOL_REFUSALS: dict[str, tuple[list, str]] = {
    "orphan": ([*MESSAGES, result("a")], "answers no tool call"),
    "unanswered": ([*MESSAGES, calls("a")], "not answered"),
    "answered_late": ([*MESSAGES, calls("a"), *MESSAGES, result("a")], "needs an answer"),
    "answered_half": ([*MESSAGES, calls("a", "b"), result("a")], "not answered"),
    "answered_twice": ([*MESSAGES, calls("a"), result("a"), result("a")], "answers no tool call"),
    "id_again": ([calls("a"), result("a"), calls("a"), result("a")], "id of an earlier"),
}

TEXT_REFUSALS: dict[str, tuple[dict, str]] = {
    "prompt_missing": ({"model": "m"}, "required field `prompt`"),
    "prompt_empty_list": ({"prompt": []}, "body.prompt"),
    "prompt_mixed": ({"prompt": ["a", 1]}, "mixes texts and tokens"),
    "prompt_object": ({"prompt": {}}, "body.prompt"),
    "prompts_many": ({"prompt": ["a", "b"]}, "asks for 2 answers"),
    "g_best_of": ({"prompt": "x", "best_of": 20}, "body.best_of"),
    "best_of_huge": ({"prompt": "x", "best_of": 10**6}, "body.best_of"),
    "echo": ({"prompt": "x", "echo": True}, "body.echo"),
    "suffix": ({"prompt": "x", "suffix": "y"}, "body.suffix"),
    "grammar_root": ({"prompt": "x", "grammar_root": "g"}, "body.grammar_root"),
    "raw_tokens": ({"prompt": "x", "return_raw_tokens": True}, "body.return_raw_tokens"),
    "logprobs_huge": ({"prompt": "x", "logprobs": 21}, "body.logprobs"),
    "messages": ({"prompt": "x", "messages": MESSAGES}, "property 'body.messages'"),
}


@pytest.mark.parametrize(("body", "words"), CHAT_REFUSALS.values(), ids=CHAT_REFUSALS.keys())
def test_a_wrong_chat_body_is_refused(body, words):
    with pytest.raises(InvalidError) as raised:
        admitted(body)
    assert words in raised.value.message
    answer = error_answer(raised.value)
    assert answer.status == 400
    assert len(answer.body) < 1000


@pytest.mark.parametrize(("messages", "words"), TOOL_REFUSALS.values(), ids=TOOL_REFUSALS.keys())
def test_tool_calls_and_their_answers_belong_together(messages, words):
    with pytest.raises(InvalidError, match=words):
        admitted(chat(messages=messages, tools=[TOOL]), tools=True)


@pytest.mark.parametrize(("body", "words"), TEXT_REFUSALS.values(), ids=TEXT_REFUSALS.keys())
def test_a_wrong_completion_body_is_refused(body, words):
    with pytest.raises(InvalidError) as raised:
        admitted({"model": "m", **body}, COMPLETIONS_PATH)
    assert words in raised.value.message


def test_each_unknown_property_has_its_line():
    with pytest.raises(InvalidError) as raised:
        admitted(chat(min_p=0.1, top_k=4))
    assert json.loads(error_answer(raised.value).body) == {
        "message": "body.min_p: property 'body.min_p' is unsupported\n"
        "body.top_k: property 'body.top_k' is unsupported",
        "type": "invalid_request_error",
        "param": "validation_error",
        "code": "wrong_api_format",
    }


def test_many_unknown_properties_give_a_bounded_answer():
    with pytest.raises(InvalidError) as raised:
        admitted(chat(**{"x" * 500 + str(number): 1 for number in range(1000)}))
    assert raised.value.message.count("\n") == 15
    assert len(raised.value.message) < 16 * 400


def test_another_org_s_model_looks_like_none_and_like_one_that_never_served():
    tables = {
        "none": EMPTY_TABLES,
        "other": EMPTY_TABLES.with_routes(
            RouteTable(1, (EndpointRoute("m", "org2", "two", "tiny", 0, True, False, ()),))
        ),
        "never": EMPTY_TABLES.with_routes(RouteTable(1, (endpoint(deployed=False),))),
    }
    answers = set()
    for table in tables.values():
        with pytest.raises(NotFoundError) as raised:
            admit(
                CHAT_PATH,
                json.dumps(chat()).encode(),
                content_type="application/json",
                content_encoding="",
                tables=table,
                key=KeyEntry("00", "key1", "org1"),
            )
        answer = error_answer(raised.value)
        answers.add((answer.status, answer.body, tuple(answer.headers.items())))
    assert answers == {
        (
            404,
            (
                b'{"message":"Model m does not exist or you do not have access to it.",'
                b'"type":"not_found_error","param":"model","code":"model_not_found"}'
            ),
            (),
        )
    }


def test_the_engine_gets_a_body_of_its_own():
    body = chat(
        messages=[
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "hi"}], "name": "ann"},
        ],
        max_completion_tokens=9,
        temperature=0.5,
        stop="x",
        stream=True,
        stream_options={"include_usage": False},
        user="u",
        service_tier="auto",
        prompt_cache_key="k",
        prediction={"type": "content", "content": "hello"},
        parallel_tool_calls=False,
        reasoning_effort=None,
    )
    got = admitted(body)
    assert got.tier_used == "default"
    assert json.loads(model_member("r1.abc") + got.rest) == {
        "model": "r1.abc",
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "hi"}], "name": "ann"},
        ],
        "max_tokens": 9,
        "temperature": 0.5,
        "stop": "x",
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_tools_reach_an_engine_that_has_them():
    messages = [*MESSAGES, calls("a"), result("a")]
    got = admitted(chat(messages=messages, tools=[TOOL], tool_choice="auto"), tools=True)
    sent = json.loads(model_member("r1") + got.rest)
    assert sent["tools"] == [TOOL]
    assert sent["tool_choice"] == "auto"
    assert sent["messages"][1:] == [
        {**calls("a"), "content": None},
        {"role": "tool", "content": "1", "tool_call_id": "a"},
    ]


@pytest.mark.parametrize("limit", [-1, None])
def test_no_limit_is_written_as_none(limit):
    assert "max_tokens" not in admitted(chat(max_tokens=limit)).body


def test_a_prompt_of_tokens_is_one_prompt():
    got = admitted({"model": "m", "prompt": [1, 2, 3], "logprobs": 2}, COMPLETIONS_PATH)
    assert got.body == {"prompt": [1, 2, 3], "logprobs": 2}
