"""Popularity against a ranking written user by user, and against the model with one factor that it is."""

import numpy as np
import pytest
from jax import numpy as jnp

from fcf_jax.core.objective import implicit_feedback
from fcf_jax.core.records import Model
from fcf_jax.data import Interactions
from fcf_jax.evaluation import (
    evaluate_popularity,
    evaluation_data,
    per_user,
    popularity,
    user_metrics,
    user_metrics_of_scores,
)

MODEL = Model(implicit_feedback(alpha=3.0), 0.7)
NUM_USERS, NUM_ITEMS, K = 37, 23, 5


@pytest.fixture(scope="module")
def split():
    """Users 0 and 1 have no training item; every other user has some, and most have a test item."""
    kind = np.random.default_rng(0).choice(3, (NUM_USERS, NUM_ITEMS), p=[0.6, 0.25, 0.15])
    kind[:2][kind[:2] == 1] = 0
    return kind == 1, kind == 2


def interactions(dense):
    users, items = np.nonzero(dense)
    strengths = 1.0 + np.arange(len(users)) % 4
    return Interactions.from_arrays(users, items, strengths, num_users=NUM_USERS, num_items=NUM_ITEMS)


def test_popularity_matches_reference_ranked_user_by_user(split):
    train, test = split
    counts, precisions, recalls, shares, errors = train.sum(axis=0), [], [], [], []
    for observed, wanted in zip(train, test, strict=True):
        if wanted.any():
            order = np.argsort(-counts, kind="stable")
            hits = wanted[order[~observed[order]][:K]].sum()
            precisions.append(hits / K)
            recalls.append(hits / wanted.sum())
            won = counts[wanted][:, None] - counts[~(observed | wanted)][None, :]
            shares.append(np.mean((won > 0) + 0.5 * (won == 0)))
            errors += ((1 - counts[wanted] / NUM_USERS) ** 2).tolist()
    found = evaluate_popularity(MODEL, interactions(train), interactions(test), k=K)
    expected = {
        f"precision_at_{K}": np.mean(precisions), f"recall_at_{K}": np.mean(recalls),
        "auc": np.mean(shares), "rmse": np.sqrt(np.mean(errors)),
    }  # fmt: skip
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-5)


def test_popularity_agrees_with_the_model_of_one_factor(split):
    train, test = map(interactions, split)
    data, shares = evaluation_data(train, test), popularity(train)
    fixed = per_user(user_metrics_of_scores(MODEL, shares, data, k=K))
    folded_in = per_user(user_metrics(MODEL, shares[:, None], data, k=K))
    has_history = np.asarray(train.history_lengths)[np.asarray(data.user_ids)] > 0
    assert 0 < (~has_history).sum() < 3
    for name in (f"map_at_{K}", f"ndcg_at_{K}", "auc"):
        np.testing.assert_allclose(fixed[name][has_history], folded_in[name][has_history], rtol=1e-6)
    assert (fixed["auc"] != folded_in["auc"])[~has_history].all()  # x = 0 ranks nothing, popularity does


def test_popularity_invariant_to_strengths_and_chunk_size(split):
    train, test = map(interactions, split)
    expected = evaluate_popularity(MODEL, train.binarized(), test, k=K)
    assert evaluate_popularity(MODEL, train, test, k=K) == expected
    small = evaluation_data(train, test, chunk_scores=5 * NUM_ITEMS)
    found = user_metrics_of_scores(MODEL, popularity(train), small, k=K)
    whole = user_metrics_of_scores(MODEL, jnp.asarray(popularity(train)), evaluation_data(train, test), k=K)
    np.testing.assert_array_equal(found.at_k[K].map, whole.at_k[K].map)
    with pytest.raises(ValueError, match="k of at least 1"):
        evaluate_popularity(MODEL, train, test, k=0)
