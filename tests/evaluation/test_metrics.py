"""Metrics of one ranked list, by hand and against the best list."""

import functools

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from fcf_jax.evaluation.metrics import best_ranking_metrics, ranking_metrics

DISCOUNTS = 1 / np.log2(np.arange(5) + 2.0)


@pytest.mark.parametrize(
    ("hits", "num_relevant", "expected"),
    [  # precision, recall, f1, average precision, ndcg, hit rate: by hand
        ([1, 0, 1, 0, 0], 2, (2 / 5, 1, 4 / 7, (1 + 2 / 3) / 2, (1 + 0.5) / DISCOUNTS[:2].sum(), 1)),
        ([0, 0, 0, 0, 1], 8, (1 / 5, 1 / 8, 2 / 13, 1 / 25, DISCOUNTS[4] / DISCOUNTS.sum(), 1)),
        ([1, 1, 1, 1, 1], 5, (1, 1, 1, 1, 1, 1)),
        ([0, 0, 0, 0, 0], 3, (0, 0, 0, 0, 0, 0)),
        ([0, 0, 0, 0, 0], 0, (0, 0, 0, 0, 0, 0)),  # a padding client: no division by zero
    ],
)
def test_known_answer_metrics(hits, num_relevant, expected):
    found = ranking_metrics(jnp.array(hits, bool), jnp.array(num_relevant))
    np.testing.assert_allclose(found, expected, rtol=1e-6)  # float32


@pytest.mark.parametrize("num_relevant", [1, 3, 10, 25])
def test_known_answer_best(num_relevant):
    best = best_ranking_metrics(jnp.array(num_relevant), k=10)
    reached = min(num_relevant, 10)
    expected = (reached / 10, reached / num_relevant, 2 * reached / (num_relevant + 10), 1, 1, 1)
    np.testing.assert_allclose(best, expected, rtol=1e-6)


def test_no_list_beats_the_best():
    every_list = jnp.array([[(code >> rank) & 1 for rank in range(6)] for code in range(64)], bool)
    over_lists = jax.vmap(ranking_metrics, in_axes=(0, None))
    found = jax.jit(jax.vmap(over_lists, in_axes=(None, 0)))(every_list, jnp.arange(1, 9))
    best = jax.vmap(functools.partial(best_ranking_metrics, k=6))(jnp.arange(1, 9))
    possible = np.sum(every_list, axis=1) <= np.arange(1, 9)[:, None]  # no more hits than test items
    for name in found._fields:
        reached = np.max(np.where(possible, getattr(found, name), 0.0), axis=1)
        np.testing.assert_allclose(reached, getattr(best, name), rtol=1e-6, err_msg=name)
