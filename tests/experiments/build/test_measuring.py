"""Measures of item factors, and rating offsets."""

import pytest

from fcf_jax.data import Interactions
from fcf_jax.experiments.build.measuring import offsets_rmse


def test_offsets_rmse_known_answer_of_constant_ratings():
    train = Interactions.from_arrays([0, 0, 1], [0, 1, 0], [3.0, 3.0, 3.0], num_users=2, num_items=2)
    test = Interactions.from_arrays([1], [1], [5.0], num_users=2, num_items=2)
    assert offsets_rmse(train, test) == pytest.approx(2.0)
