"""What an exam finds in an answer, and the few words it has for it."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighbridge.acceptance.judge import (
    difference,
    drift,
    drift_failure,
    failure_text,
    plain_failures,
)
from weighbridge.acceptance.judging import Case, judge
from weighbridge.acceptance.model import (
    Answer,
    Checks,
    Failure,
    LatencyMax,
    Message,
    Probe,
    ReferenceToken,
    Token,
)

SAID = Answer("I am version two.", (), 0.2, 1.5)


@pytest.mark.parametrize(
    ("checks", "words"),
    [
        (Checks(not_empty=True), None),
        (Checks(equals=" I am version two. "), None),
        (Checks(contains="version"), None),
        (Checks(max_latency_s=LatencyMax(0.2, 1.5)), None),
        (
            Checks(equals="I am version one."),
            'differs at character 14: expected "I am version one.", got "I am version two."',
        ),
        (Checks(contains="one"), 'expected "one" in it, got "I am version two."'),
        (
            Checks(max_latency_s=LatencyMax(0.1)),
            "first_token took 0.20 s, at most 0.1 s are allowed",
        ),
        (Checks(max_latency_s=LatencyMax(total=1)), "total took 1.50 s, at most 1 s are allowed"),
    ],
)
def test_plain_checks_say_what_was_expected_and_what_came(checks, words):
    assert [one.detail for one in plain_failures(checks, SAID)] == (
        [] if words is None else [words]
    )


def test_blanks_are_an_empty_answer():
    assert plain_failures(Checks(not_empty=True), Answer(" \n", (), 0.1, 0.1))


@given(st.text(max_size=500), st.text(max_size=500))
def test_a_difference_is_short_and_on_one_line(expected, got):
    words = difference(expected, got)
    assert len(words) < 220
    assert words.isprintable()


def test_the_failure_names_probe_prompt_and_check():
    probe = Probe("who", messages=(Message("user", "Who\nare you?" + "x" * 200),))
    words = failure_text(probe, [Failure("equals", "differs"), Failure("regex", "no")])
    assert words.startswith("acceptance probe 'who' failed: prompt \"Who are you?xxx")
    assert words.endswith('…", equals: differs (and 1 more)')
    assert len(words) < 200


def tokens(*pairs, others=()):
    return tuple(Token(text, value, {text: value, **dict(others)}) for text, value in pairs)


def expected(*pairs):
    return tuple(ReferenceToken(text, value) for text, value in pairs)


def test_the_same_tokens_drift_by_the_mean_of_their_differences():
    found = drift(expected(("a", -1.0), ("b", -0.5)), tokens(("a", -1.5), ("b", -0.5)))
    assert (found.mean, found.compared, found.parted_at) == (0.25, 2, None)
    assert drift_failure(0.25, found, "ab", "ab") is None
    assert "0.250 over 2 tokens" in drift_failure(0.2, found, "ab", "ab").detail


def test_where_the_tokens_part_the_expected_one_counts_with_what_it_has_there():
    got = tokens(("a", -1.0), ("x", -0.1), others=(("b", -3.0),))
    found = drift(expected(("a", -1.0), ("b", -1.0), ("c", -1.0)), got)
    assert (found.mean, found.compared, found.parted_at) == (1.0, 2, 1)
    assert "differs at character 2" in drift_failure(0.5, found, "abc", "ax").detail


def test_a_token_that_is_not_listed_is_less_likely_than_all_that_are():
    found = drift(expected(("b", -1.0)), tokens(("x", -0.1), others=(("y", -9.0),)))
    assert found.mean == 8.0


def test_without_tokens_there_is_nothing_to_compare():
    assert drift(expected(("a", -1.0)), ()) is None
    assert drift(expected(("a", -1.0)), tokens(("a", float("-inf")))).mean == 99.0


async def test_patterns_and_schemas_are_judged_in_a_process_of_their_own():
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    cases = [
        Case("^I am version (one|two)", None, SAID.text),
        Case("three", None, SAID.text),
        Case(None, schema, '{"n": 3}'),
        Case(None, schema, '{"n": "3"}'),
        Case(None, schema, "no JSON"),
        Case(None, None, SAID.text),
    ]
    found = [[(one.check, one.detail) for one in case] for case in await judge(cases)]
    assert found == [
        [],
        [("regex", 'expected "three" to be found, got "I am version two."')],
        [],
        [("json_schema", 'at n: \'3\' is not of type \'integer\'; got "{"n": "3"}"')],
        [
            (
                "json_schema",
                'expected JSON, got "no JSON": Expecting value: line 1 column 1 (char 0)',
            )
        ],
        [],
    ]


async def test_what_cannot_be_used_at_all_is_said_before_there_is_an_answer():
    cases = [
        Case("(", None, None),
        Case(None, {"type": "strange"}, None),
        Case(None, {"items": {"$ref": "http://127.0.0.1:1/x"}}, None),
        Case(None, {"properties": {"a": {"pattern": "["}}}, None),
        Case("fine", {"$ref": "#/$defs/a", "$defs": {"a": True}}, None),
    ]
    first, second, third, fourth, fifth = await judge(cases)
    assert "is not a pattern" in first[0].detail
    assert "the schema is not valid at type" in second[0].detail
    assert "leaves the schema" in third[0].detail
    assert "the schema is not valid" in fourth[0].detail
    assert fifth == []


async def test_a_reference_within_a_part_that_has_its_own_id_is_followed_there():
    inner = {"$id": "inner", "$defs": {"a": {"type": "string"}}, "$ref": "#/$defs/a"}
    outer = {
        "$id": "urn:outer",
        "$anchor": "top",
        "properties": {"x": inner, "y": {"$ref": "#top"}},
    }
    found = await judge([Case(None, outer, '{"x": 1}'), Case(None, outer, '{"x": "1", "y": {}}')])
    assert [[one.detail for one in case] for case in found] == [
        ['at x: 1 is not of type \'string\'; got "{"x": 1}"'],
        [],
    ]


async def test_an_answer_nested_without_end_fails_alone():
    schema = {"items": {"$ref": "#"}}
    found = await judge([Case(None, schema, "[" * 900 + "]" * 900), Case("x", None, "x")])
    assert "nested too deep" in found[0][0].detail
    assert found[1] == []


async def test_a_pattern_that_would_run_for_ever_fails_its_case_in_time(monkeypatch):
    monkeypatch.setattr("weighbridge.acceptance.judging.TIME_S", 2.0)
    began = time.monotonic()
    found = await judge([Case("(a+)+$", None, "a" * 60 + "b"), Case(None, None, "x")])
    assert time.monotonic() - began < 10
    assert "could not be checked" in found[0][0].detail
    assert found[1] == []
