"""Inner products in the metric of the items' Hessians, block by block, against dense float64."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from fcf_jax.core import curvature as module
from fcf_jax.core.curvature import curvature_of, inverse_products
from fcf_jax.core.objective import implicit_feedback
from fcf_jax.core.records import Model

NUM_ITEMS, NUM_FACTORS, NUM_CHANGES = 17, 3, 2
MODEL = Model(implicit_feedback(alpha=4.0), regularization=0.5)


@pytest.mark.parametrize("block_items", [1, 5, 17])  # 4 blocks of 5 overlap
def test_inverse_products_by_blocks_match_dense_reference(block_items, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK_BYTES", block_items * (NUM_CHANGES + 1) * NUM_FACTORS * 4)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(NUM_CHANGES + 1, NUM_ITEMS, NUM_FACTORS))
    root, kappa = rng.normal(size=(5, NUM_FACTORS)), rng.uniform(0.1, 2.0, NUM_ITEMS)
    user_gram = root.T @ root
    hessians = 2 * (kappa[:, None, None] * user_gram + 0.5 * np.eye(NUM_FACTORS))
    expected = np.einsum("aik,ikl,bil->ab", vectors, np.linalg.inv(hessians), vectors)

    @jax.jit
    def products(vectors, user_gram, kappa):
        return inverse_products(vectors[:-1], vectors[-1], curvature_of(MODEL, user_gram, kappa))

    found = products(*(jnp.asarray(leaf, jnp.float32) for leaf in (vectors, user_gram, kappa)))
    tolerance = {"rtol": 1e-5, "atol": 1e-5}  # float32 eigendecomposition
    np.testing.assert_allclose(found.changes, expected[:-1, :-1], **tolerance)
    np.testing.assert_allclose(found.mixed, expected[:-1, -1], **tolerance)
    np.testing.assert_allclose(found.gradient, expected[-1, -1], **tolerance)
