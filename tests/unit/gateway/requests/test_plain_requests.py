"""Plain requests: read in one step, and the very same that reading them in full gives, whatever is in them."""

import json

from hypothesis import example, given, settings
from hypothesis import strategies as st

from weighbridge.errors import WeighbridgeError
from weighbridge.gateway.admission import CHAT_PATH, Admitted, admit
from weighbridge.gateway.errors import error_answer
from weighbridge.gateway.requests.plain import read_plain, write_plain
from weighbridge.gateway.table import EMPTY_TABLES
from weighbridge.routing.model import EndpointRoute, KeyEntry, RouteTable

KEY = KeyEntry("00", "key", "org")
TABLES = EMPTY_TABLES.with_routes(
    RouteTable(
        1,
        (
            EndpointRoute(
                "m", "org", "org", "tiny", 1, deployed=True, rolling_out=False, replicas=()
            ),
        ),
    )
)
TEXTS = st.one_of(
    st.sampled_from(
        ['"a": 1', ":", '\\":', "\\u003a", '","role":"user', "{}", "é: ☃", "\n\t:", "/:"]
    ),
    st.text(max_size=12),
)
NUMBERS = st.sampled_from(
    [-1, 0, 1, 2, 5.0, 0.5, -0.0, 1e400, 2**31, 2**63, 2**64, True, "1", None]
)
CONTENTS = st.one_of(
    TEXTS,
    st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": TEXTS}), max_size=2),
    st.none(),
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["user", "system", "assistant", "developer", "tool"]),
            "content": CONTENTS,
        },
        optional={"name": TEXTS, "refusal": TEXTS},
    ),
    max_size=3,
)
REQUESTS = st.fixed_dictionaries(
    {"model": st.sampled_from(["m", "m", "m", "other", 1]), "messages": MESSAGES},
    optional={
        "max_tokens": NUMBERS,
        "max_completion_tokens": NUMBERS,
        "n": NUMBERS,
        "seed": NUMBERS,
        "temperature": NUMBERS,
        "top_p": NUMBERS,
        "frequency_penalty": NUMBERS,
        "stop": st.one_of(TEXTS, st.lists(TEXTS, max_size=5)),
        "stream": st.sampled_from([True, False, None, 1]),
        "stream_options": st.sampled_from(
            [{}, {"include_usage": True}, {"include_usage": None}, {"x": 1}]
        ),
        "user": TEXTS,
        "logit_bias": st.just({"a:b": 1}),
    },
)
DOUBLES = st.sampled_from(
    [
        "",
        "",
        '"model":"m",',
        '"temperature":1,',
        '"stream":true,',
        '"messages":[],',
        '"m\\u006fdel":"m",',
    ]
)


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """JSON in one of the ways to write it, sometimes with a member twice or a piece cut out."""
    text = json.dumps(
        draw(REQUESTS),
        ensure_ascii=draw(st.booleans()),
        separators=draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,", "\n:")])),
    )
    text = "{" + draw(DOUBLES) + text[1:]
    if draw(st.booleans()):
        text = text.replace('"role":"user"', '"role":"system","role":"user"', 1)
    if draw(st.booleans()):
        place = draw(st.integers(0, len(text)))
        text = (
            text[:place] + draw(st.sampled_from(["", ":", '"', " ", "\\u003a"])) + text[place + 1 :]
        )
    return text.encode("utf-8", "surrogatepass")


def outcome(text: bytes, encoding: str) -> Admitted | tuple[str, bytes]:
    try:
        return admit(
            CHAT_PATH, text, content_type="", content_encoding=encoding, tables=TABLES, key=KEY
        )
    except WeighbridgeError as error:
        return error.code, error_answer(error).body


@settings(max_examples=1500, deadline=None)
@given(texts())
@example(b'{"model":"m","model":"m","messages":[{"role":"user","content":"\\u003a"}]}')
@example(b'{"model":"m","messages":[{"role":"user","content":"a","content":":"}]}')
def test_a_plain_request_comes_out_as_in_full(text):
    # The encoding's explicit name is the same in HTTP, but is not read plainly.
    assert outcome(text, "") == outcome(text, "identity")


def plain(**members: object) -> bytes:
    messages = [{"role": "user", "content": 'say "a: b"\n'}]
    return json.dumps({"model": "m", "messages": messages, **members}).encode()


def test_what_clients_send_mostly_is_plain():
    for text in (
        plain(),
        plain(max_completion_tokens=64, temperature=0.2, stream=False),
        plain(max_tokens=-1, stream=True, stream_options={"include_usage": True}),
        plain(stream=True, stop=["a", ":"], seed=3, n=1, top_p=1),
    ):
        request = read_plain(text)
        assert request is not None
        assert write_plain(request, text) is not None
