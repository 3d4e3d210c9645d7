"""Confidences that are sent once: what takes their place in a round, and what is no longer sent."""

import jax
import numpy as np
from jax import numpy as jnp
from references import NUM_FACTORS
from small_data import MODEL

from fcf_jax.channel import Part, Payload, Pieces, confidences_once
from fcf_jax.core.cohort_sum import cohort_sum
from fcf_jax.experiments.build.channel import summed_confidences


def test_sum_of_all_users_serves_a_cohort_and_scales_to_the_sum_of_full_rounds(small):
    whole, _ = cohort_sum(MODEL, jnp.asarray(small.item_factors, jnp.float32), small.clients)
    total = summed_confidences(MODEL, small.interactions)
    np.testing.assert_allclose(total, whole.confidence_sum, rtol=1e-6)
    once = confidences_once(total, num_users=13)
    of_cohort = whole._replace(confidence_sum=jnp.full(19, jnp.nan), num_clients=jnp.asarray(4))  # two padded
    sums, _ = once.server(jax.random.key(0), once.init(), of_cohort)
    np.testing.assert_allclose(13 / 4 * sums.confidence_sum, np.r_[total, 0.0, 0.0], rtol=1e-6)
    void, _ = once.server(jax.random.key(0), once.init(), whole._replace(num_clients=jnp.asarray(0)))
    assert not np.any(void.confidence_sum) and void.upload is whole.upload


def test_rounds_send_no_confidences():
    parts = Part(17, NUM_FACTORS), Part(NUM_FACTORS, NUM_FACTORS), Part(17), Part(1)
    sent = confidences_once(np.ones(17), num_users=13).payload(Payload(Pieces(*parts), down=parts[0])).up
    assert sent == Pieces(parts[0], parts[1], Part(0), parts[3])
