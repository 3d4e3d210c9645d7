"""Parsing of text files: encodings, archives, labels, and every bad line with its number and remedy."""

import bz2
import gzip
import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import PLAIN, dense, failure

from fcf_jax.data import Columns, read_interactions
from fcf_jax.data.formats import parse, text
from fcf_jax.data.formats.columns import Positions
from fcf_jax.data.formats.dialect import Dialect
from fcf_jax.data.formats.records import WHITESPACE

FIELDS = st.sampled_from(
    [
        "1",
        "2",
        "-7",
        "007",
        "a",
        "",
        " 3",
        "4 ",
        "1.5",
        "nan",
        "inf",
        "1e400",
        '"q,r"',
        "x y",
        '"1"',
        "2020-01-01",
    ]
    + ['a"b', '"a""b"', '"x\ny"', '"', "0x1", "1_0", "\xa05", "5\x1f", "a:b", "\0"]
)


@pytest.mark.parametrize(
    "labels",
    [
        [5, 2**31 + 5, 2**32 + 5],
        [1, 2**63 - 1],
        [1, 2**63, 2**64 - 1],
        [-1, 7],
        ["-1", "9223372036854775808"],
        ["1", "18446744073709551616", "18446744073709551617"],
        ["1.0", "1.50"],
        ["3f2504e0-4f89-11d3-9a0c-0305e82c3301", "3f2504e0-4f89-11d3-9a0c-0305e82c3302"],
        ["True", "False"],
        ["NA", "null"],
        ["Björk", "Sigur Rós"],
    ],
)
def test_ids_of_any_kind_are_mapped_and_never_truncated(file, labels):
    path = file("item,user\n" + "".join(f"1,{label}\n" for label in labels))
    interactions, _ = read_interactions(path)
    assert interactions.num_users == len(labels)
    assert sorted(map(str, np.asarray(interactions.user_labels).tolist())) == sorted(map(str, labels))


def test_latin_1_and_broken_utf_8_are_read_as_latin_1_and_reported(file):
    interactions, report = read_interactions(file("user,item\nBj\xf6rk,1\n".encode("latin-1")))
    assert np.asarray(interactions.user_labels).tolist() == ["Björk"] and report.encoding == "latin-1"


def parsed(data, dialect, **options):
    """Return rows and number of skipped lines, or the message."""
    options = {"on_bad_line": "error", "implicit": False} | options
    try:
        table = parse.parse_text(data, dialect, Path("f"), **options)
    except ValueError as error:
        return str(error)
    columns = [labels.distinct[labels.codes].tolist() for labels in (table.users, table.items)]
    numbers = [None if one is None else one.tolist() for one in (table.strengths, table.timestamps)]
    merged = table.users.num_merged, table.items.num_merged
    return *columns, *numbers, merged, table.num_skipped


@given(
    rows=st.lists(st.lists(FIELDS, min_size=2, max_size=5), min_size=1, max_size=6),
    separator=st.sampled_from([",", "\t", "::", WHITESPACE]),
    policy=st.sampled_from(["error", "skip"]),
)
@settings(deadline=None)
def test_regular_and_careful_parsing_agree(rows, separator, policy):
    data = "\n".join((separator or " ").join(row) for row in rows).encode()
    dialect = Dialect(separator, 4, has_header=False, columns=Positions(0, 1, 2, 3))
    found = parsed(data, dialect, on_bad_line=policy)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parse, "parse_regular", lambda *arguments, **options: None)
        assert parsed(data, dialect, on_bad_line=policy) == found


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", ": expected interactions, found an empty file"),
        ("\n \n", ": expected interactions, found an empty file"),
        ("user,item,rating\n", ": expected interactions, found none"),
        ("lonely\n1\n2\n", ":1: expected a user and an item column"),
        (
            "a,item,rating\n1,2,3\n",
            ":1: no user column recognized among a, item, rating; pass --set data.user_column=a, or others;",
        ),
        (
            "Kunde;Artikel;Menge;Ort\n1;2;3;Ulm\n1;3;viel;Ulm\n1;3;4;Ulm\n",
            ":1: no user, item or strength column recognized among Kunde, Artikel, Menge, Ort; pass --set "
            "data.user_column=Kunde --set data.item_column=Artikel --set data.strength_column=Menge, or",
        ),
        (
            "der Kunde,rating\n1,2\n1,3\n",
            ":1: no user or item column recognized among der Kunde, rating; pass --set "
            "'data.user_column=der Kunde' --set data.item_column=NAME, or others",
        ),
        ("\nuser,b,rating\n1,2,3\n", ":2: no item column recognized among user, b, rating"),
        ("user,item,fun\n1,2,3\n", ":1: no strength column recognized among user, item, fun"),
        ("1,2,3,4,5\n1,2,3,4,5\n", ":1: cannot tell 5 columns apart"),
        (PLAIN + "1,2\n", ":5: expected 3 fields separated by ',', got 2"),
        (PLAIN + "1,2,\n", ":5: expected a finite number as strength, got ''"),
        (PLAIN + "1,2,3,4\n9,9,9\n", ":5: expected 3 fields separated by ',', got 4"),
        (PLAIN + '1,"2",3,4\n', ":5: expected 3 fields"),
        ("1 2 3\n1 2 3 4\n", ":2: expected 3 fields separated by blanks, got 4"),
        ("1::2::3::4\n1::2:3::4\n", ":2: expected 4 fields separated by '::', got 3"),
        ("1::2::3::4\n1::2::3\n2::2::3::4::5\n", ":2: expected 4 fields separated by '::', got 3"),
        (PLAIN + "\n1,2,nan\n", ":6: expected a finite number as strength, got 'nan'"),
        (PLAIN + "1,2,-inf\n", ":5: expected a finite number as strength, got '-inf'"),
        (PLAIN + "1,2,1e39\n", ":5: expected a finite number as strength, got '1e39'"),
        (PLAIN + "1,2,good\n", ":5: expected a finite number as strength, got 'good'"),
        (PLAIN + "1,2,1_000\n", ":5: expected a finite number as strength, got '1_000'"),
        (PLAIN + "1,2,-1\n", ":5: expected a strength >= 0 for implicit feedback, got -1"),
        (PLAIN + ",2,1\n", ":5: expected a user and an item id, got '' and '2'"),
        (PLAIN + '1,"2,1\n1,2,3\n', ":5: expected closing quotes"),
        (PLAIN + '1,a,"2\n', ":5: expected closing quotes"),
        ("1,2,3,2020-02-30\n", ":1: expected a timestamp in Unix seconds, milliseconds, or as ISO date, got"),
        (PLAIN + "1\0,2,1\n", ":5: expected ids without null characters"),
    ],
)
def test_bad_content_is_refused_with_the_line(file, content, expected):
    assert failure(file(content)).startswith(expected)


def test_on_bad_line_skip_counts_bad_lines(file):
    path = file(PLAIN + "1,2,nan\n1,2,good\n1,2,3,4\n,1,1\n1,2")
    interactions, report = read_interactions(path, on_bad_line="skip")
    assert dense(interactions) == [[1, 0], [3, 2]] and report.bad_lines_skipped == 5
    assert np.asarray(interactions.user_labels).tolist() == [9, 10]
    assert "found none (1 bad lines skipped)" in failure(file("user,item\n1\n"), on_bad_line="skip")


def test_zip_with_a_known_member_among_others(file):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("ml-1m/README", "about")
        archive.writestr("ml-1m/ratings.dat", "1::5::3::100\n2::5::4::200\n")
    interactions, report = read_interactions(file(buffer.getvalue(), "ml-1m.zip"))
    assert report.layout == "movielens-1m" and interactions.num_interactions == 2


def test_zip_with_several_files_lists_them(file):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.csv", PLAIN)
        archive.writestr("b.csv", PLAIN)
    assert "found a.csv, b.csv; unpack it" in failure(file(buffer.getvalue(), "ab.zip"))


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress])
def test_truncated_archives_are_refused(file, compress):
    whole = compress(os.urandom(2000))
    for size in (20, 500, len(whole) - 1):
        assert "truncated or damaged archive" in failure(file(whole[:size]))


def test_truncated_zip_is_refused(file):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.csv", PLAIN)
    assert "truncated or damaged archive" in failure(file(buffer.getvalue()[:-9], "a.zip"))


@pytest.mark.parametrize("size", [1, 2**22])
@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\r"])
def test_line_breaks_within_quotes_come_back_as_they_were(file, monkeypatch, size, line_break):
    monkeypatch.setattr(text, "_BLOCK_BYTES", size)
    path = file(
        f'user,item,"two\nlines"{line_break}"a{line_break}b",1,1{line_break}c,1,1{line_break}'.encode()
    )
    interactions, _ = read_interactions(path, columns=Columns(strength=2))
    assert np.asarray(interactions.user_labels).tolist() == [f"a{line_break}b", "c"]


def test_first_row_with_a_date_is_no_header_of_numbered_columns(file):
    interactions, _ = read_interactions(
        file("a,b,2020-01-01\nc,d,2020-01-02\n"), columns=Columns(0, 1, "", 2)
    )
    assert interactions.num_interactions == 2


@pytest.mark.parametrize("content", ["user,item\n\ufeff1,2\n", "1,2\n\ufeff\r\n", "1,2\n\ufeff1,2\n"])
def test_a_byte_order_mark_within_a_file_is_part_of_an_id(file, monkeypatch, content):
    path = file(content.encode())
    options = {"columns": Columns(0, 1, ""), "on_bad_line": "skip"}
    expected = read_interactions(path, **options)
    monkeypatch.setattr(text, "_BLOCK_BYTES", 1)
    found = read_interactions(path, **options)
    assert found[0].fingerprint() == expected[0].fingerprint() and found[1] == expected[1]
