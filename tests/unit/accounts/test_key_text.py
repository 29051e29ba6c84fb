"""The text of a key: parsed back to what it was made of, and garbage refused without a query."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighbridge.accounts.keys import key_prefix, key_text, parse_key
from weighbridge.accounts.model import KeyKind
from weighbridge.clock import ID_ALPHABET, Clock
from weighbridge.telemetry.logs import redact

KINDS = st.sampled_from(KeyKind)
IDS = st.text(ID_ALPHABET, min_size=10, max_size=10)
SECRETS = st.from_regex(r"[A-Za-z0-9_-]{43}", fullmatch=True)


@given(KINDS, IDS, SECRETS)
def test_a_key_says_its_kind_and_public_id(kind: KeyKind, key_id: str, secret: str) -> None:
    parsed = parse_key(key_text(kind, key_id, secret))
    assert parsed is not None
    assert (parsed.kind, parsed.key_id) == (kind, key_id)


@given(KINDS, IDS, SECRETS, st.data())
def test_a_key_with_any_one_character_changed_is_refused(
    kind: KeyKind, key_id: str, secret: str, data: st.DataObject
) -> None:
    text = key_text(kind, key_id, secret)
    position = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters(codec="ascii").filter(lambda c: c != text[position]))
    assert parse_key(text[:position] + other + text[position + 1 :]) is None


@given(st.text(max_size=300))
def test_arbitrary_text_is_no_key(text: str) -> None:
    assert parse_key(text) is None


def test_secrets_of_the_clock_carry_256_bits_and_differ() -> None:
    clock = Clock()
    texts = {key_text(KeyKind.BOTH, clock.new_short_id(), clock.new_secret()) for _ in range(100)}
    assert len(texts) == 100
    assert all(parse_key(text) for text in texts)


def test_a_short_secret_is_a_mistake_of_ours() -> None:
    with pytest.raises(ValueError, match="43 characters"):
        key_text(KeyKind.BOTH, "abcdefghij", "short")


@given(KINDS, IDS, SECRETS)
def test_the_log_formatter_cuts_keys_out_but_the_prefix_is_no_secret(
    kind: KeyKind, key_id: str, secret: str
) -> None:
    text = key_text(kind, key_id, secret)
    assert secret not in redact(f"seen {text} here")
    assert text.startswith(key_prefix(kind, key_id) + "_")
