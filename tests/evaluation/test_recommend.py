import importlib

import numpy as np
import pytest
from jax import numpy as jnp

from fcf_jax.evaluation.recommend import recommend

recommending = importlib.import_module("fcf_jax.evaluation.recommend")  # the function hides the module
ITEM_FACTORS = jnp.array([[1.0], [3.0], [2.0], [3.0], [-1.0]])


def test_known_answer_recommendations():
    found = recommend(ITEM_FACTORS, jnp.array([2.0]), [2], k=3)
    np.testing.assert_array_equal(found.item_ids, [1, 3, 0])  # of equals the lower id first
    np.testing.assert_allclose(found.scores, [6.0, 6.0, 2.0])


@pytest.mark.parametrize(("own", "expected"), [([], [1, 3, 2, 0, 4]), ([1, 3, 3, 2, 0], [4]), (range(5), [])])
def test_recommend_returns_no_more_than_is_unseen(own, expected):
    np.testing.assert_array_equal(recommend(ITEM_FACTORS, jnp.ones(1), own, k=9).item_ids, expected)


def test_recommend_refuses_unknown_items():
    with pytest.raises(ValueError, match=r"\[0, 5\), got -1"):
        recommend(ITEM_FACTORS, jnp.ones(1), [-1], k=1)
    with pytest.raises(ValueError, match="k >= 1"):
        recommend(ITEM_FACTORS, jnp.ones(1), [], k=0)


def test_many_users_in_chunks_agree_with_each_alone(small, monkeypatch):
    monkeypatch.setattr(recommending, "_CHUNK_SCORES", 4 * 17)  # 13 users, four at a time
    rng = np.random.default_rng(0)
    item_factors, user_factors = rng.integers(-2, 3, (17, 2)), rng.integers(-2, 3, (13, 2))  # many ties
    item_factors, user_factors = (jnp.asarray(one, jnp.float32) for one in (item_factors, user_factors))
    found = recommending.recommend_many(item_factors, user_factors, small.interactions, k=5)
    for user, (ids, scores) in enumerate(zip(*found, strict=True)):
        own = small.interactions.item_ids[slice(*small.interactions.indptr[user : user + 2])]
        alone = recommend(item_factors, user_factors[user], own, k=5)
        np.testing.assert_array_equal(ids[ids >= 0], alone.item_ids)
        np.testing.assert_array_equal(scores[ids >= 0], alone.scores)
        assert (scores[ids < 0] == -np.inf).all()


def test_many_of_nobody_and_with_no_candidate():
    nobody = recommending.recommend_many(ITEM_FACTORS, np.zeros((0, 1), np.float32), k=3)
    assert nobody.item_ids.shape == nobody.scores.shape == (0, 3)
    nothing = recommending.recommend_many(
        ITEM_FACTORS, np.ones((2, 1), np.float32), is_candidate=np.zeros(5, bool), k=2
    )
    np.testing.assert_array_equal(nothing.item_ids, -np.ones((2, 2)))
    with pytest.raises(ValueError, match="k >= 1"):
        recommending.recommend_many(ITEM_FACTORS, np.ones((2, 1), np.float32), k=0)
