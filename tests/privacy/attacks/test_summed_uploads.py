"""Attacks on sums link interactions to clients: all in a sum of one, fewer in larger cohorts."""

import numpy as np

from fcf_jax.privacy.attacks import summed_uploads


def links_of(public, uploads, cohort, *, user_gram=None):
    total = np.einsum("ui,uk->ik", *(np.asarray(one, np.float64)[cohort] for one in uploads))
    total = total.astype(np.float32)
    known = summed_uploads.fit_user_gram(public, total) if user_gram is None else user_gram
    residuals, touched = summed_uploads.touched_parts(public, total, known)
    return summed_uploads.link_parallel(residuals, touched), residuals, touched


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
        more = summed_uploads.take_apart(known, residuals, touched)
        shares.append([share(summed_uploads.score_links(one, *truth)) for one in (fitted, known, more)])
    shares = np.array(shares)
    assert shares[0].min() > 0.7 and (np.diff(shares[:, 1]) < 0).all()
    assert (shares[:, 2] >= shares[:, 1]).all()
