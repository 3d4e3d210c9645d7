"""Reading: every form of a table, the report, and the published counts of real data sets."""

import bz2
import gzip
import os
from pathlib import Path

import numpy as np
import pytest
from tables import PLAIN, dense, failure

from fcf_jax.data import Columns, Interactions, read_interactions, read_published_split

ROOT = Path(__file__).parents[2]
DATA = (ROOT / os.environ.get("FCF_DATA", "../shared/data")).resolve()


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


def test_invariant_to_line_order(tmp_path):
    lines = [f"u{row % 7},{row % 5},{row % 3},{row}" for row in range(40)]
    path, prints = tmp_path / "data.csv", set()
    for order in (np.arange(40), *(np.random.default_rng(seed).permutation(40) for seed in range(12))):
        path.write_text("\n".join(lines[i] for i in order))
        prints |= {
            read_interactions(path, duplicates=policy)[0].fingerprint() for policy in ("sum", "max", "last")
        }
    assert len(prints) == 3


def test_duplicates_and_zeros_are_counted(file):
    path = file("1,1,2\n1,1,3\n1,2,0\n2,1,0\n2,1,0\n3,1,4\n")
    interactions, report = read_interactions(path)
    assert interactions.strengths.tolist() == [5.0, 4.0]
    assert (report.num_rows, report.duplicates_merged, report.zeros_dropped) == (6, 2, 2)
    assert read_interactions(path, implicit=False)[0].num_interactions == 4
    assert read_interactions(path, duplicates="max")[0].strengths.tolist() == [3.0, 4.0]
    assert "rows 0 and 1" in failure(path, duplicates="error")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "netflix"}, "data.layout"),
        ({"on_bad_line": "ignore"}, "data.on_bad_line"),
        ({"duplicates": "mean"}, "data.duplicates"),
        ({"layout": "movielens-1m", "columns": Columns(0)}, "fixed columns"),
        ({"layout": "movielens-1m"}, ":1: expected a line of layout movielens-1m"),
        ({"separator": "ab"}, "separator of one character"),
        ({"columns": Columns(item="film")}, ":1: item column 'film' not found among user, item, rating"),
        ({"columns": Columns(item=3)}, "a number from 0 to 2"),
    ],
)
def test_bad_options_are_refused(file, options, message):
    with pytest.raises(ValueError, match=message):
        read_interactions(file(PLAIN), **options)


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
