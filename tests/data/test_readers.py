"""Reading: known layouts, unknown tables, and every fault with its file, line and remedy."""

import bz2
import gzip
import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcf_jax.data import Interactions, read_interactions, read_published_split
from fcf_jax.data import parse as parsing
from fcf_jax.data.columns import Dialect, Positions

ROOT = Path(__file__).parents[2]
DATA = (ROOT / os.environ.get("FCF_DATA", "../shared/data")).resolve()

PLAIN = "user,item,rating\n10,b,2\n9,a,1\n10,a,3\n"  # sorted: user 9 is 0, item a is 0


@pytest.fixture
def file(tmp_path):
    """Write a file and return its path."""

    def write(content, name="data.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def dense(interactions):
    return interactions.to_scipy().toarray().tolist()


def failure(path, **options):
    """The message of the expected error: one line, beginning with the file, ending with a remedy."""
    with pytest.raises(ValueError, match=";") as caught:
        read_interactions(path, **options)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(str(path)) and ";" in message
    return message.removeprefix(str(path))


# --- forms of the same table ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\r"),
        PLAIN.rstrip("\n"),
        PLAIN.replace("\n", "\n\n"),
        "\ufeff" + PLAIN,
        PLAIN.encode("utf-16"),
        PLAIN.replace(",", "\t"),
        PLAIN.replace(",", ";"),
        PLAIN.replace(",", "|"),
        PLAIN.replace(",", "::"),
        PLAIN.replace(",", "  "),
        PLAIN.replace(",", ", "),
        PLAIN.replace("b", '"b"').replace("user", '"user"'),
        "rating,userId,movieId\n2,10,b\n1,9,a\n3,10,a\n",
        "10,b,2\n9,a,1\n10,a,3\n",
        "10,a,3\n10,b,2\n9,a,1\n",
        gzip.compress(PLAIN.encode(), mtime=0),
        bz2.compress(PLAIN.encode()),
    ],
)
def test_every_form_of_a_table_reads_the_same(file, content):
    interactions, report = read_interactions(file(content))
    assert dense(interactions) == [[1, 0], [3, 2]]
    assert np.asarray(interactions.user_labels).tolist() == [9, 10]
    assert np.asarray(interactions.item_labels).tolist() == ["a", "b"]
    assert (report.layout, report.num_rows, report.bad_lines_skipped) == ("generic", 3, 0)


def test_zip_with_a_known_member_among_others(file):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("ml-1m/README", "about")
        archive.writestr("ml-1m/ratings.dat", "1::5::3::100\n2::5::4::200\n")
    interactions, report = read_interactions(file(buffer.getvalue(), "ml-1m.zip"))
    assert report.layout == "movielens-1m" and interactions.num_interactions == 2


def test_parquet_and_npz_read_like_text(file, tmp_path):
    frame = pd.read_csv(io.StringIO(PLAIN))
    frame["timestamp"] = pd.to_datetime([100, 200, 300], unit="s")
    frame.to_parquet(tmp_path / "data.parquet")
    np.savez(tmp_path / "data.npz", users=[10, 9, 10], items=["b", "a", "a"], values=[2.0, 1.0, 3.0])
    expected, _ = read_interactions(file(PLAIN))
    from_npz, _ = read_interactions(tmp_path / "data.npz")
    from_parquet, _ = read_interactions(tmp_path / "data.parquet")
    assert from_npz.fingerprint() == expected.fingerprint()
    assert dense(from_parquet) == dense(expected)
    assert np.asarray(from_parquet.timestamps).tolist() == [200, 300, 100]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"user_column": "who", "item_column": "what", "strength_column": "stars"}, [5.0, 4.0]),
        ({"user_column": 0, "item_column": 1, "strength_column": "2"}, [5.0, 4.0]),
        ({"user_column": "who", "item_column": "what", "strength_column": ""}, [1.0, 1.0]),
    ],
)
def test_columns_by_name_and_number(file, columns, expected):
    path = file("who,what,stars,more\nann,x,5,q\nbob,y,4,q\n")
    assert read_interactions(path, **columns)[0].strengths.tolist() == expected


def test_numbered_columns_without_header_do_not_eat_the_first_row(file):
    path = file("x,y,ann,book\nx,y,bob,film\n")
    interactions, _ = read_interactions(path, user_column=2, item_column=3, strength_column="")
    assert np.asarray(interactions.user_labels).tolist() == ["ann", "bob"]


def test_a_number_is_a_position_even_when_the_first_row_contains_it(file):
    interactions, _ = read_interactions(file("1,0,5\n1,2,5\n"), user_column="0", item_column="1")
    assert np.asarray(interactions.user_labels).tolist() == [1]


# --- labels -----------------------------------------------------------------------------------------------


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


@given(seed=st.integers(0, 1000))
def test_invariant_to_line_order(tmp_path_factory, seed):
    lines = [f"u{row % 7},{row % 5},{row % 3},{row}" for row in range(40)]
    path = tmp_path_factory.mktemp("order") / "data.csv"
    prints = set()
    for order in (np.arange(40), np.random.default_rng(seed).permutation(40)):
        path.write_text("\n".join(lines[i] for i in order))
        prints |= {
            read_interactions(path, duplicates=policy)[0].fingerprint() for policy in ("sum", "max", "last")
        }
    assert len(prints) == 3


FIELDS = st.sampled_from(
    ["1", "2", "-7", "007", "a", "", " 3", "4 ", "1.5", "nan", "inf", "1e400", '"q,r"', "x y"]
)


@given(rows=st.lists(st.lists(FIELDS, min_size=2, max_size=5).map(",".join), min_size=1, max_size=6))
def test_fast_and_exact_parser_agree(rows):
    data = "\n".join(rows).encode()
    dialect = Dialect(",", 4, has_header=False, columns=Positions(0, 1, 2, 3))
    fast = parsing._parse_fast(data, dialect)
    if fast is None:
        return
    exact = parsing._parse_lines(data, dialect, Path("f"), on_bad_line="error", implicit=False)
    for one, other in zip(fast[:4], exact[:4], strict=True):
        assert np.asarray(one).tolist() == np.asarray(other).tolist()


# --- faults -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", ": expected interactions, found an empty file"),
        ("\n \n", ": expected interactions, found an empty file"),
        ("user,item,rating\n", ": expected interactions, found none"),
        ("lonely\n1\n2\n", ":1: expected a user and an item column"),
        (
            "a,item,rating\n1,2,3\n",
            ":1: no user column recognized among a, item, rating; set data.user_column",
        ),
        ("\nuser,b,rating\n1,2,3\n", ":2: no item column recognized among user, b, rating"),
        ("user,item,stars\n1,2,3\n", ":1: no strength column recognized among user, item, stars"),
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
        (PLAIN + '1,"2,1\n1,2,3\n', ":5: expected 3 fields"),
        ("1,2,3,2020-01-01\n", ":1: expected a timestamp in seconds, got '2020-01-01'"),
    ],
)
def test_bad_content_is_refused_with_the_line(file, content, expected):
    assert failure(file(content)).startswith(expected)


def test_bad_lines_are_skipped_and_counted_when_asked(file):
    path = file(PLAIN + "1,2,nan\n1,2,good\n1,2,3,4\n,1,1\n1,2")
    interactions, report = read_interactions(path, on_bad_line="skip")
    assert dense(interactions) == [[1, 0], [3, 2]] and report.bad_lines_skipped == 5
    assert np.asarray(interactions.user_labels).tolist() == [9, 10]
    assert "found none (1 bad lines skipped)" in failure(file("user,item\n1\n"), on_bad_line="skip")


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress])
def test_truncated_archives_are_refused(file, compress):
    whole = compress(os.urandom(2000))
    for size in (20, 500, len(whole) - 1):
        assert "truncated or damaged archive" in failure(file(whole[:size]))


def test_truncated_zip_npz_and_parquet_are_refused(file, tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.csv", PLAIN)
    assert "truncated or damaged archive" in failure(file(buffer.getvalue()[:-9], "a.zip"))
    np.savez(tmp_path / "a.npz", users=[1], items=[1])
    pd.DataFrame({"user": [1], "item": [2]}).to_parquet(tmp_path / "a.parquet")
    for path in (tmp_path / "a.npz", tmp_path / "a.parquet"):
        path.write_bytes(path.read_bytes()[:-9])
        assert "not a readable" in failure(path)


def test_zip_with_several_files_lists_them(file):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.csv", PLAIN)
        archive.writestr("b.csv", PLAIN)
    assert "found a.csv, b.csv; unpack it" in failure(file(buffer.getvalue(), "ab.zip"))


def test_pickled_arrays_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", users=np.array([{}], object), items=[1])
    assert "not a readable NPZ" in failure(tmp_path / "a.npz")


@pytest.mark.parametrize(("value", "expected"), [(np.nan, "strength nan"), (-1.0, ">= 0 for implicit")])
def test_bad_rows_of_npz_are_named_or_skipped(tmp_path, value, expected):
    path = tmp_path / "a.npz"
    np.savez(path, users=[1, 2], items=[1, 2], values=[1.0, value])
    message = failure(path)
    assert ": row 1 (0-based)" in message and expected in message
    interactions, report = read_interactions(path, on_bad_line="skip", implicit=False)
    assert report.bad_lines_skipped + interactions.num_interactions == 2


def test_missing_ids_of_parquet_are_named(tmp_path):
    path = tmp_path / "a.parquet"
    pd.DataFrame({"user": pd.array([1, None, 2**62 + 1], "Int64"), "item": ["a", "b", "c"]}).to_parquet(path)
    assert "row 1 (0-based)" in failure(path)
    interactions, report = read_interactions(path, on_bad_line="skip")
    assert np.asarray(interactions.user_labels).tolist() == [1, 2**62 + 1] and report.bad_lines_skipped == 1


def test_missing_columns_of_npz_are_listed(tmp_path):
    np.savez(tmp_path / "a.npz", people=[1], items=[1])
    assert "no user column recognized among people, items" in failure(tmp_path / "a.npz")
    assert "'who' not found among people, items" in failure(tmp_path / "a.npz", user_column="who")


def test_duplicates_and_zeros_are_counted(file):
    path = file("1,1,2\n1,1,3\n1,2,0\n2,1,0\n2,1,0\n3,1,4\n")
    interactions, report = read_interactions(path)
    assert interactions.strengths.tolist() == [5.0, 4.0]
    assert (report.num_rows, report.duplicates_merged, report.zeros_dropped) == (6, 2, 2)
    assert read_interactions(path, implicit=False)[0].num_interactions == 4
    assert read_interactions(path, duplicates="max")[0].strengths.tolist() == [3.0, 4.0]
    assert "rows 0 and 1" in failure(path, duplicates="error")


def test_missing_paths_and_unclear_folders(file, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file or folder; set data\.path"):
        read_interactions(tmp_path / "absent")
    assert "found nothing" in failure(tmp_path)
    file(PLAIN)
    assert read_interactions(tmp_path)[1].files == (str(tmp_path / "data.csv"),)
    file(PLAIN, "more.csv")
    assert "found data.csv, more.csv; set data.path to one file" in failure(tmp_path)
    assert "expected ratings.dat, found" in failure(tmp_path, layout="movielens-1m")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "netflix"}, "data.layout"),
        ({"on_bad_line": "ignore"}, "data.on_bad_line"),
        ({"duplicates": "mean"}, "data.duplicates"),
        ({"layout": "movielens-1m", "user_column": 0}, "fixed columns"),
        ({"layout": "movielens-1m"}, ":1: expected a line of layout movielens-1m"),
        ({"separator": "ab"}, "separator of one character"),
        ({"item_column": "film"}, ":1: item column 'film' not found among user, item, rating"),
        ({"item_column": 3}, "a number from 0 to 2"),
    ],
)
def test_bad_options_are_refused(file, options, message):
    with pytest.raises(ValueError, match=message):
        read_interactions(file(PLAIN), **options)


def test_a_known_file_name_with_other_content_is_read_as_generic(file):
    assert read_interactions(file(PLAIN, "ratings.csv"))[1].layout == "generic"


# --- real data --------------------------------------------------------------------------------------------


def real(name):
    if not (DATA / name).exists():
        pytest.skip(f"{DATA / name} is absent: set FCF_DATA to the folder of the real data sets")
    return DATA / name


@pytest.mark.parametrize(
    ("name", "layout", "users", "items", "rows", "duplicates"),
    [
        ("ml-100k", "movielens-100k", 943, 1682, 100_000, 0),
        ("ml-1m", "movielens-1m", 6040, 3706, 1_000_209, 0),
        ("ml-latest-small", "movielens-latest", 610, 9724, 100_836, 0),
        ("hetrec2011-lastfm-2k", "lastfm-2k", 1892, 17_632, 92_834, 0),
        ("lastfm-lightgcn", "lastfm-lightgcn", 1880, 4489, 42_135 + 10_533, 0),
        ("filmtrust", "filmtrust", 1508, 2071, 35_497, 3),
        ("ciaodvd", "ciaodvd", 17_615, 16_121, 72_665, 320),
        ("amazon-video", "amazon-video", 31_013, 23_715, 287_107, 0),
        ("ml-1m.npz", "npz", 6040, 3706, 1_000_209, 0),
        ("jester5k.npz", "npz", 5000, 100, 363_209, 0),
    ],
)
def test_real_data_has_the_published_counts(name, layout, users, items, rows, duplicates):
    interactions, report = read_interactions(real(name), implicit="jester" not in name)
    assert (report.layout, report.num_rows, report.duplicates_merged) == (layout, rows, duplicates)
    assert (interactions.num_users, interactions.num_items) == (users, items)
    assert interactions.num_interactions == rows - duplicates
    assert (interactions.history_lengths > 0).all() and (interactions.item_counts > 0).all()


def test_two_forms_of_movielens_1m_agree():
    text, archive = (read_interactions(real(name))[0] for name in ("ml-1m", "ml-1m.npz"))
    assert text.to_scipy().nnz == archive.to_scipy().nnz
    np.testing.assert_array_equal(text.strengths, archive.strengths)
    np.testing.assert_array_equal(text.item_ids, archive.item_ids)


def test_published_split_shares_its_ids():
    train, test = read_published_split(real("lastfm-lightgcn"))
    assert (train.num_interactions, test.num_interactions) == (42_135, 10_533)
    assert (train.num_users, train.num_items) == (test.num_users, test.num_items) == (1880, 4489)
    assert train.to_scipy().multiply(test.to_scipy()).nnz == 0


def test_published_split_of_tiny_files(file, tmp_path):
    file("5\t1\t3\n5\t2\t1\n", "data1.txt")
    file("7\t2\t4\n", "test1.txt")
    train, test = read_published_split(tmp_path)
    assert (
        isinstance(train, Interactions)
        and dense(train) == [[3, 1], [0, 0]]
        and dense(test) == [[0, 0], [0, 4]]
    )
    with pytest.raises(ValueError, match="published split"):
        read_published_split(file(PLAIN))
