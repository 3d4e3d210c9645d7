"""Attacks on plain uploads recover the histories of their clients."""

import jax
import numpy as np
import pytest

import fcf_jax as fcf
from fcf_jax.privacy.attacks import knowledge, single_upload

NUM_ITEMS, NUM_FACTORS = 300, 8


@pytest.mark.parametrize("form", ["dense", "rank_one"])
def test_one_upload_gives_away_items_strengths_and_factor(seen, form):
    public, uploads, is_held, strengths = seen
    if form == "dense":
        found = single_upload.attack_dense(public, uploads.dense)
    else:
        found = single_upload.attack_rank_one(public, *uploads)
    np.testing.assert_array_equal(found.is_held, is_held)
    assert found.is_consistent.all()
    # float32 residuals and scores, 1 - s not near 0
    np.testing.assert_allclose(found.strengths[is_held], strengths[is_held], rtol=1e-2)
    np.testing.assert_allclose(found.user_factors, uploads.user_factors, rtol=1e-3, atol=1e-5)


def test_explicit_ratings_are_found_with_their_sign():
    rng = np.random.default_rng(0)
    user_ids, item_ids = np.nonzero(rng.random((12, NUM_ITEMS)) < 0.1)
    ratings = rng.integers(1, 6, size=len(user_ids)).astype(np.float32)
    interactions = fcf.Interactions.from_arrays(user_ids, item_ids, ratings, num_items=NUM_ITEMS)
    item_factors = rng.normal(0, 0.3, size=(NUM_ITEMS, NUM_FACTORS)).astype(np.float32)
    mean, clients = float(ratings.mean()), knowledge.histories(interactions, np.arange(12))
    model = fcf.Model(fcf.explicit_ratings(mean=mean), regularization=1.0, unobserved_weight=0.0)
    uploads = knowledge.uploads_of(model, jax.numpy.asarray(item_factors), clients)
    public = knowledge.Public(item_factors.astype(np.float64), 1.0, 0.0, None, mean)
    found = single_upload.attack_dense(public, uploads.dense)
    is_held, strengths = knowledge.held_and_strengths(interactions, np.arange(12))
    np.testing.assert_array_equal(found.is_held, is_held)
    np.testing.assert_allclose(found.strengths[is_held], strengths[is_held], rtol=1e-2)  # float32


def test_nothing_held_is_nothing_found(seen):
    public = seen[0]
    found = single_upload.attack_dense(public, np.zeros((1, NUM_ITEMS, NUM_FACTORS), np.float32))
    assert not found.is_held.any() and found.is_consistent.all()
