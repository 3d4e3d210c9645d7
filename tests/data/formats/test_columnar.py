"""NPZ and Parquet: the same interactions as from text, and every bad row with its number."""

import io

import numpy as np
import pandas as pd
import pytest
from tables import PLAIN, dense, failure

from fcf_jax.data import Columns, read_interactions


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


def test_truncated_npz_and_parquet_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", users=[1], items=[1])
    pd.DataFrame({"user": [1], "item": [2]}).to_parquet(tmp_path / "a.parquet")
    for path in (tmp_path / "a.npz", tmp_path / "a.parquet"):
        path.write_bytes(path.read_bytes()[:-9])
        assert "not a readable" in failure(path)


def test_pickled_arrays_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", users=np.array([{}], object), items=[1])
    assert "not a readable NPZ" in failure(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("value", "expected"), [(np.nan, "as strength, got nan"), (-1.0, ">= 0 for implicit")]
)
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
    assert "'who' not found among people, items" in failure(tmp_path / "a.npz", columns=Columns("who"))
