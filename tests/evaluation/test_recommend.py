import numpy as np
import pytest
from jax import numpy as jnp

from fcf_jax.evaluation import recommend

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
