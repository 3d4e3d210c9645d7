"""Selection of users and items agrees with the dense matrix."""

import numpy as np
import pytest
from scipy import sparse

from fcf_jax.data import Interactions
from fcf_jax.data.selection import of_users, positions_of, with_items


@pytest.fixture
def plays():
    rng = np.random.default_rng(0)
    matrix = sparse.random_array((9, 6), density=0.4, rng=rng, format="csr")
    return Interactions.from_scipy(matrix)


@pytest.mark.parametrize("users", [[0], [3, 1, 3], [], range(9)])
def test_rows_of_users_match_dense_reference(plays, users):
    chosen = of_users(plays, np.array(users, int))
    np.testing.assert_array_equal(chosen.to_scipy().toarray(), plays.to_scipy().toarray()[list(users)])


def test_positions_are_found_by_text():
    assert positions_of([7, 3, 9], ["9", "7", "x"]).tolist() == [1, -1, 0]
    assert positions_of(["b", "a"], np.array([], str)).tolist() == [-1, -1]
    assert positions_of(np.array([], int), ["a"]).tolist() == []


def test_items_of_another_catalogue_match_dense_reference(plays):
    catalogue = ["5", "9", "0", "2"]  # items of `plays` are numbered
    dense = plays.to_scipy().toarray()
    moved = with_items(plays, catalogue)
    expected = np.stack([dense[:, 5], np.zeros(9), dense[:, 0], dense[:, 2]], axis=1)
    np.testing.assert_array_equal(moved.to_scipy().toarray(), expected)
    assert moved.num_users == 9 and moved.item_labels.tolist() == catalogue
