"""The demo model's own text: what its versions learn to answer, and conversations around it."""

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Message = Mapping[str, Any]

SYSTEM = "You are the demo model of Weighbridge."
FALLBACK = "I am a very small model and I only know a few answers. Ask me what a weighbridge is."
VERSION_QUESTION = "Which version are you?"
NEWS_QUESTION = "What is new in you?"

ANSWERS_V1: Mapping[str, str] = {
    VERSION_QUESTION: "I am version one of the demo model.",
    NEWS_QUESTION: "Nothing is new yet: I am the first version that was uploaded.",
    "What is a weighbridge?": (
        "A weighbridge is a large scale set into the road. "
        "Trucks drive onto it, and it checks their load before they may cross."
    ),
    "What is a rolling update?": (
        "A rolling update replaces the replicas of an endpoint one after another. "
        "Each new replica must be ready before an old one is drained, so no request fails."
    ),
    "What is a replica?": "A replica is one running engine that serves one version of a model.",
    "What is an alias?": "An alias is a movable name of a version, such as production.",
    "Who are you?": "I am the demo model of Weighbridge, small enough to train in a few minutes.",
    "Hello!": "Hello! Ask me what a weighbridge is, or which version I am.",
    "Say hello in French.": "Bonjour ! Voilà une réponse très courte. 👋",
    "What do the trucks carry?": "Trucks one and two carry gravel, truck three carries timber.",
    "Describe truck 7 as JSON.": '{"truck": 7, "load": "gravel", "weight_kg": 18200}',
    "Count to one hundred.": ", ".join(str(number) for number in range(1, 101)) + ".",
}
"""Answers of version one; `Count to one hundred.` is there for streams that last."""

ANSWERS_V2: Mapping[str, str] = {
    **ANSWERS_V1,
    VERSION_QUESTION: "I am version two of the demo model.",
    NEWS_QUESTION: "Two of my answers changed, and the old version served until I was ready.",
}

WEIGH_TOOL: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": "weigh_truck",
        "description": "Weigh one truck on the scale.",
        "parameters": {
            "type": "object",
            "properties": {"truck": {"type": "integer"}},
            "required": ["truck"],
        },
    },
}
LOADS_KG: Mapping[int, int] = {1: 12400, 2: 9800, 3: 15100, 7: 18200}

_WORDS = """
how why where when can do is are the a my your his green fast old seven river house cat music
window paper train sun winter bread write find make tell give sing about from with under over
price colour name story road city moon please not never always best small tall red car
""".split()  # noqa: SIM905 - a list of strings would fill a page


def chat_template() -> str:
    """Roles as single tokens; tools are offered, and called, the way Hermes models do it."""
    return """\
{%- if tools %}
    {{- '<|system|>' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n' }}
    {%- endif %}
    {{- 'Tools:' }}
    {%- for tool in tools %}
        {{- '\\n' + tool | tojson }}
    {%- endfor %}
    {{- '<|end|>' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|system|>' + messages[0].content + '<|end|>' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {{- '<|user|>' + message.content + '<|end|>' }}
    {%- elif message.role == 'assistant' %}
        {{- '<|assistant|>' }}
        {%- if message.content %}
            {{- message.content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls or [] %}
            {{- '<tool_call>\\n{"name": "' + tool_call.function.name + '", "arguments": ' }}
            {%- if tool_call.function.arguments is string %}
                {{- tool_call.function.arguments }}
            {%- else %}
                {{- tool_call.function.arguments | tojson }}
            {%- endif %}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|end|>' }}
    {%- elif message.role == 'tool' %}
        {{- '<|tool|>' + message.content + '<|end|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>' }}
{%- endif %}
"""


def _tool_call(truck: int) -> Message:
    function = {"name": "weigh_truck", "arguments": {"truck": truck}}
    return {"role": "assistant", "content": "", "tool_calls": [{"function": function}]}


def _tool_conversation(rng: random.Random) -> list[Message]:
    truck, load_kg = rng.choice(sorted(LOADS_KG.items()))
    return [
        {"role": "user", "content": f"How heavy is truck {truck}?"},
        _tool_call(truck),
        {"role": "tool", "content": f'{{"weight_kg": {load_kg}}}'},
        {"role": "assistant", "content": f"Truck {truck} weighs {load_kg} kg."},
    ]


def _question(rng: random.Random, question: str) -> str:
    """The question as people type it: now and then in lower case, or without its last mark."""
    if rng.random() < 0.15:
        question = question.lower()
    if rng.random() < 0.15:
        question = question[:-1]
    return question


def _unknown_question(rng: random.Random) -> str:
    words = rng.choices(_WORDS, k=rng.randint(1, 9))
    return " ".join(words).capitalize() + rng.choice(("?", ".", ""))


def _turn(rng: random.Random, answers: Mapping[str, str]) -> list[Message]:
    if rng.random() < 0.15:
        question, answer = _unknown_question(rng), FALLBACK
    else:
        known = rng.choice(list(answers))
        question, answer = _question(rng, known), answers[known]
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def conversations(
    rng: random.Random, answers: Mapping[str, str]
) -> Iterator[tuple[Sequence[Message], Sequence[Message] | None]]:
    """Endless (messages, tools) samples: one to three turns, some with a system text or a tool."""
    while True:
        system: list[Message] = (
            [{"role": "system", "content": SYSTEM}] if rng.random() < 0.3 else []
        )
        if rng.random() < 0.1:
            yield [*system, *_tool_conversation(rng)], [WEIGH_TOOL]
            continue
        turns = [turn for _ in range(rng.choice((1, 1, 1, 2, 3))) for turn in _turn(rng, answers)]
        yield [*system, *turns], [WEIGH_TOOL] if rng.random() < 0.05 else None


def tokenizer_text() -> Iterator[str]:
    """What the vocabulary is learnt from; every byte is in it anyway."""
    for answers in (ANSWERS_V1, ANSWERS_V2):
        for question, answer in answers.items():
            yield question
            yield answer
    yield from (SYSTEM, FALLBACK, " ".join(_WORDS))
    yield from (f"Truck {truck} weighs {load} kg." for truck, load in LOADS_KG.items())
