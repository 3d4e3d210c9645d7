"""Item factors from noised second moments, against dense sums and the sensitivities that they claim."""

import jax
import numpy as np
import pytest

from fcf_jax.data import Interactions, simulate_taste
from fcf_jax.privacy import second_moments
from fcf_jax.privacy.second_moments import Releases, second_moment_factors, shrunk

KEY = jax.random.key(0)
SILENT = Releases(8, 15, 0.0, 0.0, clip_norm=0.5)


@pytest.fixture(scope="module")
def histories():
    return simulate_taste(num_users=60, num_items=20, mean_history=6, seed=0).binarized()


def head_of(histories, num_items):
    counts = histories.item_counts.astype(float)
    item_ids = np.argsort(-counts, kind="stable")[:num_items]
    return second_moments._Head.of(histories, counts, item_ids), counts[item_ids], item_ids


def dense_rows(histories, counts, item_ids):
    """Compute g of every user as the docstring has it."""
    seen = histories.to_scipy().toarray()[:, item_ids] > 0
    p = counts / np.linalg.norm(counts)
    rest = seen - np.outer(seen @ p, p)
    norms = np.linalg.norm(rest, axis=1, keepdims=True)
    return np.where(norms > 1e-6, rest / np.maximum(norms, 1e-6), 0.0)


def test_sums_match_dense_reference(histories):
    head, counts, item_ids = head_of(histories, 8)
    rows, directions = (
        dense_rows(histories, counts, item_ids),
        np.linalg.qr(np.eye(8)[:, ::-1] + 0.3)[0][:, :3],
    )
    np.testing.assert_allclose(head.moments(), rows.T @ rows, atol=1e-12)
    np.testing.assert_allclose(head.project(directions), rows @ directions, atol=1e-12)
    np.testing.assert_allclose(head.sum_with(rows @ directions), rows.T @ rows @ directions, atol=1e-12)


def test_no_user_moves_a_sum_by_more_than_its_sensitivity(histories):
    """With the same released counts: g g^T by at most 1, g' c^T by at most C."""
    counts = histories.item_counts.astype(float)
    order = np.argsort(-counts, kind="stable")
    matrix = histories.to_scipy()
    moved_moments, moved_sums = [], []
    directions = np.linalg.qr(np.random.default_rng(0).standard_normal((8, 4)))[0]

    def sums(of):
        small, large = (second_moments._Head.of(of, counts, order[:size]) for size in (8, 15))
        tastes = small.project(directions)
        lengths = np.linalg.norm(tastes, axis=1, keepdims=True)
        return small.moments(), large.sum_with(tastes * np.minimum(1, 0.5 / np.maximum(lengths, 1e-9)))

    whole = sums(histories)
    for user in range(20):
        kept = np.arange(histories.num_users) != user
        without = sums(Interactions.from_scipy(matrix[kept]))
        moved_moments.append(np.linalg.norm(whole[0] - without[0]))
        moved_sums.append(np.linalg.norm(whole[1] - without[1]))
    assert max(moved_moments) == pytest.approx(1) and 0.45 < max(moved_sums) < 0.5 + 1e-9


def test_singular_values_shrink_to_what_is_left_without_noise():
    rng = np.random.default_rng(0)
    left, right = (
        np.linalg.qr(rng.standard_normal((400, 2)))[0],
        np.linalg.qr(rng.standard_normal((20, 2)))[0],
    )
    signal = left * np.array([90.0, 50.0]) @ right.T
    noised = signal + rng.standard_normal(signal.shape)
    vectors, values = shrunk(noised, noise_scale=1.0)
    assert np.count_nonzero(values) == 2 and values[0] < np.linalg.svd(noised)[1][0]
    best = vectors[:, :2].T @ signal  # of these vectors, in the norm of Frobenius
    np.testing.assert_allclose(values[:2], np.linalg.norm(best, axis=1), rtol=0.05)
    np.testing.assert_array_equal(shrunk(signal, noise_scale=0.0)[1], np.linalg.svd(signal, False)[1])
    assert not shrunk(noised - signal, noise_scale=1.0)[1].any()


def test_limit_much_noise_ranks_by_popularity(histories):
    counts = histories.item_counts.astype(float)
    loud = SILENT._replace(moment_noise_multiplier=1e3, projection_noise_multiplier=1e3)
    factors = second_moment_factors(KEY, histories, counts, num_factors=4, releases=loud)
    assert not factors[:, 1:].any()
    np.testing.assert_allclose(factors[:, 0], 5 * counts / np.linalg.norm(counts), rtol=1e-6)


def test_without_noise_factors_span_tastes_of_the_head(histories):
    counts = histories.item_counts.astype(float)
    factors = second_moment_factors(KEY, histories, counts, num_factors=4, releases=SILENT)
    again = second_moment_factors(KEY, histories, counts, num_factors=4, releases=SILENT)
    np.testing.assert_array_equal(factors, again)
    outside = np.argsort(-counts, kind="stable")[15:]
    assert not factors[outside, 1:].any() and factors[:, 1:].any(axis=0).all()
    assert np.linalg.norm(factors[:, 1]) == pytest.approx(1)
    _, of_head, item_ids = head_of(histories, 15)
    tastes = dense_rows(histories, of_head, item_ids)
    explained = [np.linalg.norm(tastes @ factors[item_ids, column]) for column in (1, 2, 3)]
    assert np.all(
        np.array(explained) / np.linalg.norm(factors[:, 1:], axis=0) > np.linalg.norm(tastes) / 15**0.5
    )


@pytest.mark.parametrize(
    ("num_factors", "changed", "words"),
    [
        (1, {}, "num_factors of at least 2"),
        (9, {}, "num_factors. <= num_moment_items"),
        (4, {"num_items": 21}, "<= 20 of the catalogue"),
        (4, {"clip_norm": 2.0}, "clip_norm in"),
    ],
)
def test_numbers_out_of_range_are_refused(histories, num_factors, changed, words):
    with pytest.raises(ValueError, match=words):
        second_moment_factors(
            KEY,
            histories,
            histories.item_counts.astype(float),
            num_factors=num_factors,
            releases=SILENT._replace(**changed),
        )
