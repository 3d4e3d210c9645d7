"""Separators: inferred where one reading is clear, refused where readings disagree."""

import pytest
from tables import failure

from fcf_jax.data.formats.separators import first_lines, inferred_separator


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["1,2,3,2020-01-01 10:00:00"], ","),
        (["2020-01-01 10:00:00,1,2"], ","),
        (["1,2,5,a|b", "1,3,5,c|d"], ","),
        (["1, 2, 3", "1, 3, 3"], ","),
        (["a\tb c\t3"], "\t"),
        (["1;2;3,5"], ";"),
        (["user,item,rating", "2001::1,5,3"], ","),
        (["user::item::rating"], "::"),
        (["1 2 3,5"], ""),
        (['"a,b";1;2', '"c,d";1;2'], ";"),
        (["1|2|3", "1|2"], "|"),
    ],
    ids=str,
)
def test_separator_leaves_ids_whole(lines, expected):
    assert inferred_separator([*lines, lines[-1]]) == expected


@pytest.mark.parametrize(
    ("line", "readings", "separators"),
    [
        ("2001::1,5,3", "'2001' | '1,5,3' or '2001::1' | '5' | '3'", "'::' or ','"),
        ("1 2,3", "'1 2' | '3' or '1' | '2,3'", "',' or 'whitespace'"),
        ("a;b c,d;5", "'a' | 'b c,d' | '5' or 'a;b c' | 'd;5'", "';' or ','"),
    ],
)
def test_readings_that_disagree_are_refused(file, line, readings, separators):
    message = failure(file(f"{line}\n{line}\n"))
    assert message.startswith(
        f":1: cannot tell whether {line!r} means {readings}; set data.separator to {separators}"
    )


@pytest.mark.parametrize("num_blank", [0, 3, 70_000])
@pytest.mark.parametrize("length", [3, 70_000])
def test_first_lines_are_whole(num_blank, length):
    line = "x" * length
    number, lines = first_lines(f"{chr(10) * num_blank}{line}\n1,2\n1,3".encode())
    assert number == num_blank + 1 and lines[0] == line
