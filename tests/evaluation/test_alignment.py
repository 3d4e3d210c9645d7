import numpy as np
import pytest

from fcf_jax.evaluation import model_difference

RNG = np.random.default_rng(0)
Y, X = RNG.normal(size=(12, 3)), RNG.normal(size=(9, 3))
ROTATION, _ = np.linalg.qr(RNG.normal(size=(3, 3)))


def test_invariant_to_rotation():
    np.testing.assert_allclose(model_difference(Y @ ROTATION, X @ ROTATION, Y, X), 0.0, atol=1e-7)


def test_known_answer_of_longer_factors():
    found = model_difference(1.1 * Y @ ROTATION, 0.8 * X @ ROTATION, Y, X)
    np.testing.assert_allclose(found, [0.1, 0.2, 1 - 0.88])


def test_scores_match_dense_reference_and_no_rotation_does_better():
    other_y, other_x = Y + 0.3 * RNG.normal(size=Y.shape), X + 0.3 * RNG.normal(size=X.shape)
    found = model_difference(Y, X, other_y, other_x)
    dense = np.linalg.norm(X @ Y.T - other_x @ other_y.T) / np.linalg.norm(other_x @ other_y.T)
    assert found.scores == pytest.approx(dense)
    for turn in (np.eye(3), ROTATION, -np.eye(3)):
        assert found.item_factors <= np.linalg.norm(Y @ turn - other_y) / np.linalg.norm(other_y)


def test_nothing_to_compare_with_is_nan():
    assert np.isnan(model_difference(Y, X, 0 * Y, X)).tolist() == [True, False, True]
