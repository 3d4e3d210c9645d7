"""Columns and layouts: chosen by name or number, inferred, or those of a published data set."""

import numpy as np
import pytest
from tables import PLAIN, failure

from fcf_jax.data import Columns, read_interactions


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (Columns("who", "what", "stars"), [5.0, 4.0]),
        (Columns(0, 1, "2"), [5.0, 4.0]),
        (Columns("who", "what", ""), [1.0, 1.0]),
    ],
)
def test_columns_by_name_and_number(file, columns, expected):
    path = file("who,what,stars,more\nann,x,5,q\nbob,y,4,q\n")
    assert read_interactions(path, columns=columns)[0].strengths.tolist() == expected


def test_numbered_columns_without_header_do_not_eat_the_first_row(file):
    path = file("x,y,ann,book\nx,y,bob,film\n")
    interactions, _ = read_interactions(path, columns=Columns(2, 3, ""))
    assert np.asarray(interactions.user_labels).tolist() == ["ann", "bob"]


def test_a_number_is_a_position_even_when_the_first_row_contains_it(file):
    interactions, _ = read_interactions(file("1,0,5\n1,2,5\n"), columns=Columns("0", "1"))
    assert np.asarray(interactions.user_labels).tolist() == [1]


def test_a_known_file_name_with_other_content_is_read_as_generic(file):
    assert read_interactions(file(PLAIN, "ratings.csv"))[1].layout == "generic"


def test_missing_paths_and_unclear_folders(file, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file or folder; give a data file"):
        read_interactions(tmp_path / "absent")
    assert "found nothing" in failure(tmp_path)
    file(PLAIN)
    assert read_interactions(tmp_path)[1].files == (str(tmp_path / "data.csv"),)
    file(PLAIN, "more.csv")
    assert "found data.csv, more.csv; set data.path to one file" in failure(tmp_path)
    assert "expected ratings.dat, found" in failure(tmp_path, layout="movielens-1m")
