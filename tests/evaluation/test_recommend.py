"""Recommendations for one user and for many."""

import importlib

import numpy as np
import pytest
from jax import numpy as jnp
from references import REGULARIZATION, relative_error, solve_users
from small_data import MODEL

from fcf_jax.core.biases import biases
from fcf_jax.core.objectives.logistic import logistic
from fcf_jax.data import Interactions
from fcf_jax.evaluation.recommend import recommend

recommending = importlib.import_module("fcf_jax.evaluation.recommend")  # the function hides the module
ITEM_FACTORS = jnp.array([[1.0], [3.0], [2.0], [3.0], [-1.0]])


def test_known_answer_recommendations():
    found = recommend(ITEM_FACTORS, jnp.array([2.0]), [2], k=3)
    np.testing.assert_array_equal(found.item_ids, [1, 3, 0])  # of equals the lower id first
    np.testing.assert_allclose(found.scores, [6.0, 6.0, 2.0])


@pytest.mark.parametrize(
    ("observed", "expected"), [([], [1, 3, 2, 0, 4]), ([1, 3, 3, 2, 0], [4]), (range(5), [])]
)
def test_recommend_returns_no_more_than_is_unseen(observed, expected):
    np.testing.assert_array_equal(recommend(ITEM_FACTORS, jnp.ones(1), observed, k=9).item_ids, expected)


def test_recommend_refuses_unknown_items():
    with pytest.raises(ValueError, match=r"\[0, 5\), got -1"):
        recommend(ITEM_FACTORS, jnp.ones(1), [-1], k=1)
    with pytest.raises(ValueError, match="k of at least 1"):
        recommend(ITEM_FACTORS, jnp.ones(1), [], k=0)


def test_many_users_in_chunks_agree_with_each_alone(small, monkeypatch):
    monkeypatch.setattr(recommending, "_CHUNK_SCORES", 4 * 17)  # 13 users, four at a time
    rng = np.random.default_rng(0)
    item_factors, user_factors = rng.integers(-2, 3, (17, 2)), rng.integers(-2, 3, (13, 2))  # many ties
    item_factors, user_factors = (jnp.asarray(one, jnp.float32) for one in (item_factors, user_factors))
    found = recommending.recommend_many(item_factors, user_factors, small.interactions, k=5)
    for user, (ids, scores) in enumerate(zip(*found, strict=True)):
        observed = small.interactions.item_ids[slice(*small.interactions.indptr[user : user + 2])]
        alone = recommend(item_factors, user_factors[user], observed, k=5)
        np.testing.assert_array_equal(ids[ids >= 0], alone.item_ids)
        np.testing.assert_array_equal(scores[ids >= 0], alone.scores)
        assert (scores[ids < 0] == -np.inf).all()


def test_many_of_no_user_and_with_no_candidate():
    empty = recommending.recommend_many(ITEM_FACTORS, np.zeros((0, 1), np.float32), k=3)
    assert empty.item_ids.shape == empty.scores.shape == (0, 3)
    nothing = recommending.recommend_many(
        ITEM_FACTORS, np.ones((2, 1), np.float32), is_candidate=np.zeros(5, bool), k=2
    )
    np.testing.assert_array_equal(nothing.item_ids, -np.ones((2, 2)))
    with pytest.raises(ValueError, match="k of at least 1"):
        recommending.recommend_many(ITEM_FACTORS, np.ones((2, 1), np.float32), k=0)


def test_new_users_match_dense_reference_and_other_sizes_compile_nothing(small, num_compiled):
    item_factors = jnp.asarray(small.item_factors, jnp.float32)
    found = recommending.solve_new_users(MODEL, item_factors, small.interactions)
    expected = solve_users(small.item_factors, small.c, small.p, regularization=REGULARIZATION)
    assert relative_error(found, expected) <= 1e-5  # float32
    before = num_compiled()
    few = Interactions.from_scipy(small.interactions.to_scipy()[:11])
    found = recommending.solve_new_users(MODEL._replace(regularization=2.0), item_factors, few)
    expected = solve_users(small.item_factors, small.c[:11], small.p[:11], regularization=2.0)
    assert relative_error(found, expected) <= 1e-5
    assert num_compiled() == before


def test_contributions_match_dense_reference_and_sum_to_the_score(small):
    y, c, p = small.item_factors, small.c[0], small.p[0]
    ids = np.flatnonzero(p)
    contributions, factorization = recommending.explain_score(y, 16, ids, c[ids], p[ids], model=MODEL)
    matrix = (y.T * c) @ y + REGULARIZATION * np.eye(y.shape[1])
    np.testing.assert_allclose(contributions, (c * p)[ids] * (y[ids] @ np.linalg.solve(matrix, y[16])))
    (user_factor,) = solve_users(y, c[None], p[None], regularization=REGULARIZATION)
    assert contributions.sum() == pytest.approx(y[16] @ user_factor)
    again, _ = recommending.explain_score(
        y, 16, ids, c[ids], p[ids], model=MODEL, factorization=factorization
    )
    np.testing.assert_array_equal(again, contributions)
    flat = MODEL._replace(regularization=0.0)
    with pytest.raises(ValueError, match="raise regularization"):
        recommending.explain_score(np.zeros_like(y), 16, ids, c[ids], p[ids], model=flat)


@pytest.mark.parametrize("more", [{"objective": logistic()}, {"biases": biases()}])
def test_scores_that_are_no_sum_over_the_history_are_not_explained(more):
    ids = np.arange(2)
    with pytest.raises(ValueError, match="squared errors without biases"):
        recommending.explain_score(np.eye(3), 2, ids, np.ones(2), model=MODEL._replace(**more))
