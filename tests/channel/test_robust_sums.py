"""Trimmed means and medians of the clients' rows against dense references."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from jax.tree_util import Partial
from references import NUM_FACTORS, REGULARIZATION, relative_error, solve_users
from small_data import MODEL

from fcf_jax.channel import (
    Pieces,
    chain,
    choose_formats,
    coordinate_median,
    fixed_point,
    link,
    robust_sums,
    trimmed_mean,
)
from fcf_jax.core.cohort_sum import cohort_sum


def trimmed_sum(values, share):
    """n times the mean of what is left of each column."""
    n = len(values)
    cut = min(int(np.floor(share * n)), (n - 1) // 2) if n else 0
    kept = np.sort(values, axis=0)[cut : n - cut]
    return n * kept.mean(axis=0) if n else np.zeros(values.shape[1:])


def dense_sums(small, share, weights, present):
    y = small.item_factors
    x = solve_users(y, small.c, small.p, regularization=REGULARIZATION)
    seen = np.where(small.p > 0, small.c * small.p - (small.c - 1) * (x @ y.T), 0.0)
    rows = np.zeros_like(y)
    for item in range(len(y)):
        holders = np.flatnonzero((small.p[:, item] > 0) & present)
        rows[item] = trimmed_sum((weights * seen[:, item])[holders, None] * x[holders], share)
    grams = (weights[:, None, None] * x[:, :, None] * x[:, None, :])[present]
    gram = trimmed_sum(grams, share)
    return rows - y @ gram, gram


def leave_out(weights, present, key, state, uploads):
    """A link before: weights of its own, and clients that do not come."""
    ids = uploads.client_ids
    comes = present.at[ids].get(mode="fill", fill_value=False)
    return uploads._replace(
        weights=uploads.weights * weights.at[ids].get(mode="fill", fill_value=0.0),
        is_client=uploads.is_client & comes,
    )


@pytest.fixture(scope="module")
def summed(small):
    y = jnp.asarray(small.item_factors, jnp.float32)
    return jax.jit(lambda channel: cohort_sum(MODEL, y, small.clients, channel=channel)[0])


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5])
def test_robust_sums_match_dense_reference_and_a_share_does_not_recompile(small, summed, num_compiled, share):
    weights, present = np.linspace(0.2, 1.4, 13), np.arange(13) != 7
    before_robust = link(client=Partial(leave_out, jnp.asarray(weights, jnp.float32), jnp.asarray(present)))
    robust = trimmed_mean(small.clients, num_factors=NUM_FACTORS, share=share)
    if share == 0.5:
        robust = coordinate_median(small.clients, num_factors=NUM_FACTORS)
    sums = summed(chain(before_robust, robust))
    upload, gram = dense_sums(small, share, weights, present)
    assert relative_error(sums.upload, upload) <= 2e-5  # float32
    assert relative_error(sums.user_gram, gram) <= 2e-5
    assert int(sums.num_clients) == 12 and np.isfinite(sums.loss)
    before = num_compiled()
    summed(chain(before_robust, trimmed_mean(small.clients, num_factors=NUM_FACTORS, share=0.3)))
    assert num_compiled() == before


def test_a_second_rule_of_adding_up_and_too_many_uploads_are_refused(small, monkeypatch):
    robust = coordinate_median(small.clients, num_factors=NUM_FACTORS)
    formats = choose_formats(Pieces(500.0, 500.0, 100.0, 1000.0), max_clients=13)
    with pytest.raises(ValueError, match="one link of the chain with accumulation, got 2"):
        chain(robust, fixed_point(formats, max_clients=13))
    monkeypatch.setattr(robust_sums, "_MOST_NUMBERS", 100)
    with pytest.raises(ValueError, match="robust sums keep every upload"):
        coordinate_median(small.clients, num_factors=NUM_FACTORS)
