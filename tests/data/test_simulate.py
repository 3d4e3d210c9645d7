"""Simulated data: number of views, at least one per user and item, and tastes that can be learned."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fcf_jax.data import simulate, simulate_taste, simulate_uniform, split_per_user


def assert_covered(interactions):
    assert (interactions.history_lengths >= 1).all() and (interactions.item_counts >= 1).all()
    assert (interactions.strengths >= 1).all()
    np.testing.assert_array_equal(interactions.strengths, np.round(interactions.strengths))


@given(num_users=st.integers(1, 30), num_items=st.integers(1, 30), seed=st.integers(0, 9))
def test_uniform_has_the_requested_sparsity_and_covers_all(num_users, num_items, seed):
    sparsity = 0.8 if min(num_users, num_items) >= 6 else 0.0
    interactions = simulate_uniform(num_users=num_users, num_items=num_items, sparsity=sparsity, seed=seed)
    assert interactions.num_interactions == round((1 - sparsity) * num_users * num_items)
    assert_covered(interactions)


def test_uniform_prefers_no_item():
    counts = simulate_uniform(num_users=5000, num_items=20, sparsity=0.8, seed=0).item_counts
    np.testing.assert_allclose(counts, 1000, atol=5 * np.sqrt(5000 * 0.2 * 0.8))  # five standard deviations


@given(num_users=st.integers(1, 40), num_items=st.integers(2, 40), seed=st.integers(0, 9))
@settings(max_examples=50)
def test_taste_covers_all(num_users, num_items, seed):
    mean_history = max(1, num_items // 2)
    if num_users < 5:  # a few short histories may not have room for every item
        num_users += 5
    assert_covered(
        simulate_taste(num_users=num_users, num_items=num_items, mean_history=mean_history, seed=seed)
    )


@pytest.mark.parametrize(
    "simulated", [simulate_uniform, lambda **sizes: simulate_taste(mean_history=9, **sizes)]
)
def test_same_seed_gives_the_identical_result(simulated):
    prints = [simulated(num_users=200, num_items=60, seed=seed).fingerprint() for seed in (5, 5, 6)]
    assert prints[0] == prints[1] != prints[2]


def test_taste_has_long_tails_and_the_requested_mean():
    interactions = simulate_taste(num_users=5000, num_items=2000, mean_history=20, seed=0)
    lengths, counts = interactions.history_lengths, np.sort(interactions.item_counts)[::-1]
    assert abs(lengths.mean() - 20) < 1.9  # log-normal, sigma 1: five standard errors, 5 * 26 / sqrt(5000)
    assert np.median(lengths) < 0.75 * lengths.mean() and lengths.max() > 8 * lengths.mean()
    assert counts[:200].sum() > 0.35 * counts.sum()  # a tenth of the items, more than a third of the views
    assert counts[:200].sum() < 0.8 * counts.sum()


def test_taste_in_many_blocks_still_covers_all(monkeypatch):
    monkeypatch.setattr(simulate, "_BLOCK_INTERACTIONS", 50)
    interactions = simulate_taste(num_users=300, num_items=100, mean_history=10, seed=0)
    assert interactions.num_users == 300
    assert_covered(interactions)


def recall_at_10(scores, train, test):
    scores = np.where(train > 0, -np.inf, scores)
    top = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    counted = test.sum(axis=1) > 0
    hits = np.take_along_axis(test, top, axis=1).sum(axis=1)
    return (hits / np.minimum(np.maximum(test.sum(axis=1), 1), 10))[counted].mean()


@pytest.mark.parametrize("seed", [0, 1])
def test_planted_taste_can_be_learned(seed):
    interactions = simulate_taste(num_users=2000, num_items=400, mean_history=20, seed=seed)
    split = split_per_user(interactions.binarized(), seed=seed)
    train, test = (part.to_scipy().toarray().astype(np.float64) for part in (split.train, split.test))
    left, singular, right = np.linalg.svd(train, full_matrices=False)
    personal = (left[:, :9] * singular[:9]) @ right[:9]  # rank: eight genres and popularity
    popular = np.broadcast_to(train.sum(axis=0), train.shape)
    assert recall_at_10(personal, train, test) > 1.5 * recall_at_10(popular, train, test)


def test_uniform_views_have_nothing_to_learn():
    split = split_per_user(simulate_uniform(num_users=1000, num_items=100, seed=0).binarized(), seed=0)
    train, test = (part.to_scipy().toarray().astype(np.float64) for part in (split.train, split.test))
    left, singular, right = np.linalg.svd(train, full_matrices=False)
    personal = (left[:, :9] * singular[:9]) @ right[:9]
    assert (
        recall_at_10(personal, train, test) < 0.135
    )  # by chance 10 of 84 unseen items: 0.119, standard error 0.005


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_users": 0}, "num_users >= 1"),
        ({"sparsity": 1.0}, r"sparsity in \[0, 1\)"),
        ({"sparsity": 0.99}, "at least 50 views.*lower the sparsity"),
    ],
)
def test_uniform_refuses_bad_parameters(change, message):
    with pytest.raises(ValueError, match=message):
        simulate_uniform(**{"num_users": 50, "num_items": 20, "seed": 0, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_items": 0}, "num_items >= 1"),
        ({"mean_history": 11}, r"mean_history in \[1, 10\]"),
        ({"mean_history": float("nan")}, "mean_history"),
        ({"num_factors": 0}, "num_factors >= 1"),
        ({"popularity_exponent": -1}, "popularity_exponent >= 0"),
        ({"num_users": 3, "mean_history": 2}, "as many interactions as items"),
        ({"num_users": 10**8, "num_items": 10**4, "mean_history": 100}, "10000000000"),
    ],
)
def test_taste_refuses_bad_parameters(change, message):
    with pytest.raises(ValueError, match=message):
        simulate_taste(**{"num_users": 50, "num_items": 20, "mean_history": 5, "seed": 0, **change})
