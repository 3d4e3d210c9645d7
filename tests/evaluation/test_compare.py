"""Comparison of two models: paired statistics against SciPy, and factors up to a rotation."""

import numpy as np
import pytest
from scipy import stats

from fcf_jax.evaluation import equivalence_test, model_difference, paired_difference

RNG = np.random.default_rng(0)
A = RNG.normal(0.30, 0.1, 40)
B = A + RNG.normal(0.01, 0.02, 40)
Y, X = RNG.normal(size=(12, 3)), RNG.normal(size=(9, 3))
ROTATION, _ = np.linalg.qr(RNG.normal(size=(3, 3)))


def test_paired_difference_matches_scipy():
    found, expected = paired_difference(A, B), stats.ttest_rel(A, B)
    interval = expected.confidence_interval(0.95)
    np.testing.assert_allclose(found[:4], [(A - B).mean(), (A - B).std(ddof=1), interval.low, interval.high])
    assert found.num_pairs == 40


@pytest.mark.parametrize("margin", [0.001, 0.012, 0.05])
def test_equivalence_matches_two_scipy_tests(margin):
    expected = max(
        stats.ttest_rel(A + margin, B, alternative="greater").pvalue,
        stats.ttest_rel(A - margin, B, alternative="less").pvalue,
    )
    np.testing.assert_allclose(equivalence_test(A, B, margin=margin), expected, rtol=1e-9)


def test_equivalence_of_constant_differences_is_certain():
    assert equivalence_test([1.0, 2.0], [1.0, 2.0], margin=0.1) == 0.0
    assert equivalence_test([1.0, 2.0], [1.5, 2.5], margin=0.1) == 1.0


def test_statistics_refuse_what_is_not_paired():
    with pytest.raises(ValueError, match="same users"):
        paired_difference(A, B[:-1])
    with pytest.raises(ValueError, match="finite"):
        paired_difference([1.0, np.nan], [0.0, 0.0])
    with pytest.raises(ValueError, match="margin > 0"):
        equivalence_test(A, B, margin=0.0)


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


def test_difference_to_a_model_of_zeros_is_nan():
    assert np.isnan(model_difference(Y, X, 0 * Y, X)).tolist() == [True, False, True]
