"""What of an engine's output reaches the customer, as the reason of a replica that failed."""

import pytest

from weighbridge.replicas.reconciler import LOG_LINE_CHARS_MAX, last_line

TOKEN = "t0ken-of-one-replica"


@pytest.mark.parametrize(
    ("output", "line"),
    [
        ("", ""),
        ("\n \n", ""),
        ("loading\ncannot load tensor blk.0\n\n", "cannot load tensor blk.0"),
        ("progress 1%\rout of memory", "out of memory"),
        ("\x1b[31mout of memory\x1b[0m\n", "[31mout of memory[0m"),
        (f"api key is {TOKEN}\n", "api key is [secret]"),
        ("Authorization: Bearer abcdefgh.ijkl\n", "Authorization: Bearer [secret]"),
        ("login as hf_abcdefghijklmnopqrst\n", "login as [secret]"),
        ("x" * 5000, "x" * LOG_LINE_CHARS_MAX),
        ("x" * (LOG_LINE_CHARS_MAX - 8) + TOKEN, "x" * (LOG_LINE_CHARS_MAX - 8) + "[secret]"),
    ],
)
def test_one_printable_line_without_secrets_is_shown(output: str, line: str) -> None:
    assert last_line(output, TOKEN) == line
