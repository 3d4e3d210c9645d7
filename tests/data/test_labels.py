"""Ids come back exactly as they were written, from every kind of file."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from tables import dense, failure

from fcf_jax.data import Interactions, read_interactions
from fcf_jax.data.labels import LabelsBuilder, joined_labels, labels_of, numbered


def labels(interactions):
    return np.asarray(interactions.user_labels).tolist()


def test_leading_zeros_and_signs_make_other_ids(file):
    rows = "".join(f"{user},1,1\n" for user in ("007", "7", "+7", "-0"))
    interactions, _ = read_interactions(file("user,item,rating\n" + rows))
    assert labels(interactions) == ["+7", "-0", "007", "7"]
    assert labels(read_interactions(file("10,1,1\n-9,1,1\n0,1,1\n"))[0]) == [-9, 0, 10]


def test_ids_that_differ_in_blanks_are_merged_and_counted(file):
    interactions, report = read_interactions(file("user,item,rating\na,x,1\na ,x,1\n b, y,1\n"))
    assert dense(interactions) == [[2, 0], [0, 1]]
    assert report.labels_merged == 1 and labels(interactions) == ["a", "b"]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pd.array([2**62 + 1, 2**62 + 2], "Int64"), [2**62 + 1, 2**62 + 2]),
        (np.array([2**63, 1], np.uint64), [1, 2**63]),
        ([b"a", b"\xc3\xa9"], ["a", "é"]),
        ([7.0, 5.0], [5, 7]),
        ([7.0, 1.5], ["1.5", "7"]),
        (pd.to_datetime(["2020-01-01", "2020-01-02"]).date, ["2020-01-01", "2020-01-02"]),
        ([True, False], ["false", "true"]),
        (pd.Categorical(["b", "a"]), ["a", "b"]),
    ],
    ids=str,
)
def test_typed_ids_come_back_from_parquet(tmp_path, column, expected):
    pd.DataFrame({"user": column, "item": [1, 2]}).to_parquet(tmp_path / "a.parquet")
    assert labels(read_interactions(tmp_path / "a.parquet")[0]) == expected


@pytest.mark.parametrize("missing", [None, "", " ", "a\0"])
def test_rows_without_a_usable_id_are_named_or_skipped(tmp_path, missing):
    path = tmp_path / "a.parquet"
    pd.DataFrame({"user": ["a", missing], "item": [1, 2]}).to_parquet(path)
    assert failure(path).startswith(": row 1 (0-based): expected a user id, got")
    interactions, report = read_interactions(path, on_bad_line="skip")
    assert labels(interactions) == ["a"] and report.bad_lines_skipped == 1


def test_pieces_of_a_column_share_their_labels():
    builder = LabelsBuilder()
    pieces = [pa.array(["b", "a"]), pa.array(["c ", "a", "c"]), pa.array([7, 5]), pa.array(["b"])]
    codes = np.concatenate([builder.codes_of(piece) for piece in pieces])
    found = builder.finish(codes)
    assert found.tolist() == ["b", "a", "c", "a", "c", "7", "5", "b"] and found.num_merged == 1


def test_labels_of_several_files_are_numbered_together():
    both = joined_labels([labels_of(["9", "10"]), labels_of(["18446744073709551615", "9"])])
    ids, distinct = numbered(both[[0, 2, 3]])  # 10 does not occur
    assert distinct[ids].tolist() == ["9", "18446744073709551615", "9"]
    assert len(distinct) == 2


def test_a_null_character_in_a_label_is_refused():
    with pytest.raises(ValueError, match="without null characters"):
        Interactions.from_labels(np.array(["a\0", "a"], object), [1, 2])
