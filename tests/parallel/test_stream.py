"""Clients that come from host memory."""

import jax
import numpy as np
import optax
import pytest

from fcf_jax.core.federation import federated_cf, run_rounds
from fcf_jax.core.weighting import implicit_feedback
from fcf_jax.parallel.stream import run_rounds_streamed

KEY = jax.random.key(1)


@pytest.fixture(scope="module", params=[None, 4])
def federation(request):
    model = {"num_items": 17, "num_factors": 3, "regularization": 1.0, "cohort_size": request.param}
    return federated_cf(optax.adam(0.1), implicit_feedback(alpha=1.0), **model)


@pytest.mark.parametrize("block_chunks", [1, 2, 100])
def test_streamed_rounds_agree_with_resident_ones(small, federation, block_chunks):
    start = federation.init(KEY)
    expected, info = run_rounds(federation, KEY, start, small.clients, num_rounds=3)
    state, streamed = run_rounds_streamed(
        federation, KEY, start, small.clients, num_rounds=3, block_chunks=block_chunks
    )
    # float32 sums in another order, magnified by Adam
    np.testing.assert_allclose(state.item_factors, expected.item_factors, atol=1e-4)
    np.testing.assert_array_equal(streamed.client_ids, info.client_ids)
    np.testing.assert_allclose(streamed.loss, info.loss, rtol=1e-5)
    assert int(state.round_index) == 3


def test_a_block_of_nothing_is_named(small, federation):
    with pytest.raises(ValueError, match="expected block_chunks of at least 1, got 0"):
        run_rounds_streamed(
            federation, KEY, federation.init(KEY), small.clients, num_rounds=1, block_chunks=0
        )
