"""The attacks recover what they should, and no more than their ceilings allow."""

import jax
import numpy as np
import pytest
import references

import fcf_jax as fcf
from fcf_jax.data import simulate_taste
from fcf_jax.privacy.attacks import (
    cohort_sum,
    figures,
    knowledge,
    linking,
    noisy_upload,
    single_upload,
    views,
)
from fcf_jax.privacy.limits import in_out_auc_ceiling, item_auc_ceiling

NUM_USERS, NUM_ITEMS, NUM_FACTORS, ALPHA = 60, 300, 8, 4.0
USERS = np.arange(NUM_USERS)


@pytest.fixture(scope="module", params=["binarized", "raw"])
def seen(request):
    """Public knowledge, what the clients send, and the truth, after some rounds."""
    interactions = simulate_taste(num_users=NUM_USERS, num_items=NUM_ITEMS, mean_history=12, seed=1)
    interactions = interactions.binarized() if request.param == "binarized" else interactions
    weighting = fcf.implicit_feedback(alpha=ALPHA)
    options = {"num_items": NUM_ITEMS, "num_factors": NUM_FACTORS, "regularization": 1.0}
    federation = fcf.federated_cf(fcf.guarded_gram(regularization=1.0), weighting, **options)
    key = jax.random.key(0)
    clients = fcf.batch_clients(interactions)
    state, _ = fcf.run_rounds(federation, key, federation.init(key), clients, num_rounds=5)
    uploads = views.uploads_of(state.item_factors, views.histories(interactions, USERS), weighting, 1.0)
    public = knowledge.Public(np.asarray(state.item_factors, np.float64), 1.0, 1.0, ALPHA)
    return public, uploads, *views.held_and_strengths(interactions, USERS)


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


def test_uploads_match_dense_reference(seen):
    public, uploads, is_held, strengths = seen
    c, p = references.dense_weights(strengths, is_held, alpha=ALPHA)
    for user in (0, 7):
        x = references.solve_user(public.item_factors, c[user], p[user], regularization=1.0)
        expected = references.upload(public.item_factors, x, c[user], p[user])
        assert references.relative_error(uploads.dense[user], expected) < 1e-5  # float32


def test_explicit_ratings_are_found_with_their_sign():
    rng = np.random.default_rng(0)
    user_ids, item_ids = np.nonzero(rng.random((12, NUM_ITEMS)) < 0.1)
    ratings = rng.integers(1, 6, size=len(user_ids)).astype(np.float32)
    interactions = fcf.Interactions.from_arrays(user_ids, item_ids, ratings, num_items=NUM_ITEMS)
    item_factors = rng.normal(0, 0.3, size=(NUM_ITEMS, NUM_FACTORS)).astype(np.float32)
    mean, clients = float(ratings.mean()), views.histories(interactions, np.arange(12))
    weighting = fcf.explicit_ratings(mean=mean)
    uploads = views.uploads_of(jax.numpy.asarray(item_factors), clients, weighting, 1.0, 0.0)
    public = knowledge.Public(item_factors.astype(np.float64), 1.0, 0.0, None, mean)
    found = single_upload.attack_dense(public, uploads.dense)
    is_held, strengths = views.held_and_strengths(interactions, np.arange(12))
    np.testing.assert_array_equal(found.is_held, is_held)
    np.testing.assert_allclose(found.strengths[is_held], strengths[is_held], rtol=1e-2)  # float32


def test_nothing_held_is_nothing_found(seen):
    public = seen[0]
    found = single_upload.attack_dense(public, np.zeros((1, NUM_ITEMS, NUM_FACTORS), np.float32))
    assert not found.is_held.any() and found.is_consistent.all()


def links_of(public, uploads, cohort, *, user_gram=None):
    total = np.einsum("ui,uk->ik", *(np.asarray(one, np.float64)[cohort] for one in uploads))
    total = total.astype(np.float32)
    known = cohort_sum.fit_user_gram(public, total) if user_gram is None else user_gram
    residuals, touched = cohort_sum.touched_parts(public, total, known)
    return linking.link_parallel(residuals, touched), residuals, touched


def share(score):
    return score.correct.sum() / score.held.sum()


def test_sum_of_one_client_is_its_history(seen):
    public, uploads, is_held, _ = seen
    for user in (2, 11):
        links, _, _ = links_of(public, uploads, [user])
        (items,) = links.claims
        np.testing.assert_array_equal(items, is_held[user])


def test_links_fall_with_the_cohort_and_the_gram_gives_more(seen):
    public, uploads, is_held, _ = seen
    factors = np.asarray(uploads.user_factors, np.float64)
    shares = []
    for size in (2, 10, 50):
        gram = factors[:size].T @ factors[:size]
        fitted, _, _ = links_of(public, uploads, slice(size))
        known, residuals, touched = links_of(public, uploads, slice(size), user_gram=gram)
        truth = is_held[:size], factors[:size]
        more = linking.take_apart(known, residuals, touched)
        shares.append([share(linking.score_links(one, *truth)) for one in (fitted, known, more)])
    shares = np.array(shares)
    assert shares[0].min() > 0.7 and (np.diff(shares[:, 1]) < 0).all()
    assert (shares[:, 2] >= shares[:, 1]).all()


def test_auc_under_noise_stays_below_its_ceiling(seen):
    public, uploads, is_held, _ = seen
    dense = np.asarray(uploads.dense)
    norms = np.linalg.norm(dense, axis=(1, 2))
    clip_norm = float(np.median(norms))
    clipped = dense * np.minimum(1.0, clip_norm / norms)[:, None, None]
    mean, expected = noisy_upload.expected_factors(public, is_held.mean(axis=0))
    rng, found = np.random.default_rng(0), []
    for noise_multiplier in (0.02, 0.5, 2.0):
        noised = clipped + noise_multiplier * clip_norm * rng.normal(size=dense.shape)
        for scores in (
            noisy_upload.scores_by_expectation(noised, expected),
            noisy_upload.scores_by_own_direction(noised, mean),
        ):
            # 60 users with some 12 items each: within its own interval of 95 %
            auc = figures.auc_across_users(scores, is_held)
            assert auc.low <= item_auc_ceiling(noise_multiplier)
            found.append(auc.value)
    assert min(found[:2]) > 0.7  # little noise protects little


def test_popularity_is_at_chance_across_users(seen):
    is_held = seen[2]
    scores = np.broadcast_to(is_held.sum(axis=0), is_held.shape)
    assert figures.auc_across_users(scores, is_held) == (0.5, 0.5, 0.5)


def test_known_answer_ceilings_and_the_rule_of_three():
    assert in_out_auc_ceiling(0.0) == 1.0
    assert in_out_auc_ceiling(1.0) == pytest.approx(0.7602, abs=1e-4)  # Phi(1 / sqrt 2)
    assert item_auc_ceiling(1.0) == pytest.approx(0.9214, abs=1e-4)  # Phi(sqrt 2)
    assert item_auc_ceiling(2.0, num_rounds=4) == pytest.approx(0.9214, abs=1e-4)
    assert figures.ratio(np.ones(300), np.ones(300)) == (1.0, 0.99, 1.0)
