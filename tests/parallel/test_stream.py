"""Rounds over clients that come from host memory."""

import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp
from references import relative_error
from small_data import MODEL

from fcf_jax import channel
from fcf_jax.core.federation import federated_cf, run_rounds
from fcf_jax.core.objective import implicit_feedback
from fcf_jax.core.records import Model
from fcf_jax.parallel import stream
from fcf_jax.parallel.stream import run_rounds_streamed

KEY = jax.random.key(1)
ADAM = optax.inject_hyperparams(optax.adam)(learning_rate=0.1)


def noise(noise_multiplier, clip_norm=3.0):
    clipped = channel.clip_and_noise(
        clip_norms=channel.Pieces(clip_norm, None, None, None),
        noise_multiplier=noise_multiplier,
        expected_cohort_size=13.0,
    )
    return channel.chain(channel.dropouts(0.3), clipped)


@pytest.fixture(scope="module", params=[None, 4])
def cohort_size(request):
    return request.param


@pytest.fixture(scope="module")
def set_up(cohort_size):
    def build(model=MODEL, link=None):
        return federated_cf(model, ADAM, num_items=17, num_factors=3, cohort_size=cohort_size, channel=link)

    return build


@pytest.mark.parametrize("is_noisy", [False, True], ids=["plain", "noisy"])
def test_streamed_rounds_agree_with_resident_ones(small, set_up, cohort_size, is_noisy):
    """In blocks of one chunk, of two, and of more than there are."""
    federation = set_up(link=noise(0.1) if is_noisy else None)
    block_chunks = {(False, True): 1, (False, False): 100, (True, True): 100, (True, False): 2}[
        is_noisy, cohort_size is None
    ]
    start = federation.init(KEY)
    expected, info = run_rounds(federation, KEY, start, small.clients, num_rounds=3)
    state, streamed = run_rounds_streamed(
        federation, KEY, start, small.clients, num_rounds=3, block_chunks=block_chunks
    )
    # float32 sums in another order, magnified by Adam
    np.testing.assert_allclose(state.item_factors, expected.item_factors, atol=1e-4)
    np.testing.assert_array_equal(streamed.client_ids, info.client_ids)
    np.testing.assert_allclose(streamed.loss, info.loss, rtol=1e-5)
    np.testing.assert_allclose(streamed.gradient_norm, info.gradient_norm, rtol=1e-4)
    assert int(state.round_index) == 3


def test_cohorts_of_all_rounds_are_gathered_by_one_program(small):
    federation = federated_cf(MODEL, ADAM, num_items=17, num_factors=3, cohort_size=2)
    before = stream._gather._cache_size()
    run_rounds_streamed(federation, KEY, federation.init(KEY), small.clients, num_rounds=12, block_chunks=3)
    assert stream._gather._cache_size() == before + 1


def test_other_numbers_compile_nothing(small, set_up, num_compiled):
    def train(model=MODEL, link=None, rate=0.1):
        federation = set_up(model, noise(0.1) if link is None else link)
        start = federation.init(KEY)
        hyperparams = {"learning_rate": jnp.asarray(rate)}
        optimizer_state = start.optimizer_state
        hyperparams = optimizer_state.hyperparams | hyperparams
        state = start._replace(optimizer_state=optimizer_state._replace(hyperparams=hyperparams))
        state, _ = run_rounds_streamed(federation, KEY, state, small.clients, num_rounds=3, block_chunks=2)
        return state.item_factors

    expected, before = train(), num_compiled()
    for changed in (
        {"model": Model(implicit_feedback(alpha=1.5), MODEL.regularization)},
        {"model": MODEL._replace(regularization=2.0)},
        {"model": MODEL._replace(unobserved_weight=0.5)},
        {"link": noise(0.3)},
        {"link": noise(0.1, clip_norm=1.0)},
        {"rate": 0.3},
    ):
        assert relative_error(train(**changed), expected) > 1e-3, changed  # it was not ignored
    assert num_compiled() == before


def test_a_block_of_nothing_is_named(small, set_up):
    federation = set_up()
    with pytest.raises(ValueError, match="expected block_chunks of at least 1, got 0"):
        run_rounds_streamed(
            federation, KEY, federation.init(KEY), small.clients, num_rounds=1, block_chunks=0
        )


def test_streamed_clients_take_their_features_along(small):
    clients = small.clients._replace(features=jnp.eye(13, 2))
    federation = federated_cf(MODEL, optax.sgd(1e-3), num_items=17, num_factors=3, num_user_features=2)
    start = federation.init(KEY)
    expected, _ = run_rounds(federation, KEY, start, clients, num_rounds=2)
    state, _ = run_rounds_streamed(federation, KEY, start, clients, num_rounds=2, block_chunks=2)
    np.testing.assert_allclose(state.item_factors, expected.item_factors, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(state.features.user_map, expected.features.user_map, rtol=1e-4, atol=1e-6)
