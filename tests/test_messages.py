"""Text of messages."""

import pytest

from fcf_jax.messages import count_of, one_line, printable, with_article


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (count_of(1, "item"), "1 item"),
        (count_of(0, "item"), "0 items"),
        (count_of(2, "history", "histories"), "2 histories"),
        (with_article("integer"), "an integer"),
        (with_article("number"), "a number"),
        (one_line("a\n  b\tc"), "a b c"),
        (
            printable("caf\u00e9\n\t\x1b[2J\x7f\x9b\u202e\udcff"),
            "caf\u00e9\n\t\\x1b[2J\\x7f\\x9b\\u202e\\udcff",
        ),
    ],
)
def test_text_known_answers(text, expected):
    assert text == expected


def test_a_long_message_keeps_both_ends():
    line = one_line("data.csv:3: expected " + "x" * 5000 + "; correct it")
    assert line.startswith("data.csv:3: expected ") and line.endswith("; correct it") and len(line) < 1100
