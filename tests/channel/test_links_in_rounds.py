"""Links in rounds of a federation: limits, links that users write, and numbers that compile nothing."""

import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp
from jax.tree_util import Partial
from references import NUM_FACTORS, relative_error
from small_data import MODEL

from fcf_jax.channel import (
    Link,
    Pieces,
    adaptive_clip_and_noise,
    chain,
    choose_formats,
    clip_and_noise,
    fixed_point,
    link,
)
from fcf_jax.core.cohort_sum import cohort_sum
from fcf_jax.core.federation import federated_cf, run_rounds
from fcf_jax.core.packing import pack_clients

KEY = jax.random.key(3)
SIZES = {"num_items": 17, "num_factors": NUM_FACTORS}
CLIP_NORMS = Pieces(20.0, 1.0, 30.0, 15.0)
SGD = optax.sgd(1e-3)


def run(small, channel, **options):
    federation = federated_cf(MODEL, SGD, channel=channel, **SIZES, **options)
    return run_rounds(federation, KEY, federation.init(KEY), small.clients, num_rounds=3)


def noisy(noise_multiplier=0.5, clip_norms=CLIP_NORMS):
    return clip_and_noise(clip_norms=clip_norms, noise_multiplier=noise_multiplier, expected_cohort_size=13.0)


def adaptive(noise_multiplier=0.5):
    return adaptive_clip_and_noise(
        clip_norms=CLIP_NORMS, noise_multiplier=noise_multiplier, expected_cohort_size=13.0
    )


def in_integers():
    formats = choose_formats(Pieces(500.0, 500.0, 100.0, 1000.0), max_clients=13)
    return fixed_point(formats, max_clients=13)


def weigh(factor):
    """A user's link: plain Python functions that scale what clients send, and count rounds in its state."""

    def client(key, state, uploads):
        return uploads._replace(weights=factor * uploads.weights)

    def server(key, state, sums):
        return sums._replace(loss=sums.loss + state), state + 1

    return Link(init=lambda: jnp.zeros(()), client=client, server=server, payload=lambda payload: payload)


def drop(probability, key, state, uploads):
    """Leave clients out at random: who stays depends on the key and the user's id alone."""
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, uploads.client_ids)
    stays = jax.vmap(jax.random.uniform)(keys) >= probability
    return uploads._replace(weights=stays * uploads.weights, is_client=stays & uploads.is_client)


def test_client_ends_have_a_key_each(small):
    """Two links that draw by user id let different clients through."""
    y, once = jnp.asarray(small.item_factors, jnp.float32), link(client=Partial(drop, 0.4))
    alone, _ = cohort_sum(MODEL, y, small.clients, channel=once, key=KEY)
    twice, _ = cohort_sum(MODEL, y, small.clients, channel=chain(once, once), key=KEY)
    shares = [float(sums.num_clients) for sums in (alone, twice)]
    assert 0 < shares[1] < shares[0] < 13


def test_client_ends_of_a_chain_need_no_key_where_no_link_draws(small):
    y = jnp.asarray(small.item_factors, jnp.float32)
    plain, _ = cohort_sum(MODEL, y, small.clients)
    sums, _ = cohort_sum(MODEL, y, small.clients, channel=chain(weigh(0.5), weigh(0.5)))
    np.testing.assert_allclose(sums.upload, 0.25 * plain.upload, rtol=1e-5, atol=1e-5)  # float32


def test_chains_nest(small):
    clip, weights = noisy(0.0), (weigh(0.5), weigh(0.8), weigh(0.9))
    flat, info = run(small, chain(weights[0], clip, *weights[1:]))
    nested, _ = run(small, chain(chain(weights[0], clip), chain(*weights[1:])))
    np.testing.assert_allclose(nested.item_factors, flat.item_factors, rtol=1e-6)
    assert jax.tree.leaves(nested.channel_state) == jax.tree.leaves(flat.channel_state) == [3.0] * 3
    assert np.isfinite(flat.item_factors).all() and info.loss.shape == (3,)


def test_limit_links_that_pass_everything_on_recover_the_plain_round(small):
    plain, plain_info = run(small, None, cohort_size=4)
    passed, info = run(small, chain(link(), link()), cohort_size=4)
    np.testing.assert_allclose(passed.item_factors, plain.item_factors, rtol=1e-5, atol=1e-6)  # other fusion
    np.testing.assert_array_equal(info.client_ids, plain_info.client_ids)
    np.testing.assert_allclose(info.loss, plain_info.loss, rtol=1e-5)


def test_limit_no_clip_and_no_noise_recovers_the_plain_round(small):
    huge = Pieces(1e9, 1e9, 1e9, 1e9)
    silent = chain(noisy(0.0, huge), noisy(0.0, huge))
    plain, plain_info = run(small, None)
    private, info = run(small, silent)
    np.testing.assert_allclose(private.item_factors, plain.item_factors, rtol=1e-5, atol=1e-6)  # other fusion
    np.testing.assert_allclose(info.gradient_norm, plain_info.gradient_norm, rtol=1e-5)
    np.testing.assert_allclose(info.loss, plain_info.loss, rtol=1e-5)  # released, as C_f is not None


def test_limit_fixed_point_recovers_the_plain_round(small):
    plain, plain_info = run(small, None)
    rounded, info = run(small, in_integers())
    np.testing.assert_allclose(rounded.item_factors, plain.item_factors, atol=1e-4)  # 2^-f of each number
    np.testing.assert_allclose(info.loss, plain_info.loss, rtol=1e-4)
    assert not np.asarray(info.num_clipped_entries).any()


def test_links_of_plain_python_functions_work_in_rounds(small):
    """Half of every upload is half of the sum: with lambda 0 the step is half as long."""
    model = MODEL._replace(regularization=0.0)
    steps = []
    for channel in (None, weigh(0.5)):
        federation = federated_cf(model, SGD, channel=channel, **SIZES)
        start = federation.init(KEY)
        state, info = jax.jit(federation.round)(KEY, start, small.clients)
        steps.append(state.item_factors - start.item_factors)
    np.testing.assert_allclose(steps[1], 0.5 * steps[0], rtol=1e-3, atol=1e-7)  # float32, Y rounds at 1e-8
    assert int(info.num_clipped) == 0 and int(info.num_clients) == 13  # weighed, not clipped
    assert float(state.channel_state) == 1.0  # a state of its own


def test_link_that_draws_by_user_id_is_invariant_to_chunks(small):
    dropouts = link(client=Partial(drop, 0.4))
    y = jnp.asarray(small.item_factors, jnp.float32)
    packings = small.clients, pack_clients(small.interactions, row_width=4, chunk_slots=1000)
    (sums, _), (others, _) = (
        cohort_sum(MODEL, y, clients, channel=dropouts, key=KEY) for clients in packings
    )
    assert 0 < int(sums.num_clients) < 13
    assert int(sums.num_clients) == int(others.num_clients)
    assert relative_error(others.upload, sums.upload) <= 1e-5  # float32


def test_other_noise_and_clip_norms_compile_nothing(small, num_compiled):
    expected, _ = run(small, noisy())
    before = num_compiled()
    for changed in (noisy(0.7), noisy(0.5, Pieces(10.0, 1.0, 30.0, 15.0))):
        state, _ = run(small, changed)
        assert relative_error(state.item_factors, expected.item_factors) > 1e-3
    assert num_compiled() == before


@pytest.mark.parametrize("build", [
    adaptive,
    lambda noise=0.5: chain(link(item_weights=jnp.full(17, 2 * noise)), noisy(noise)),
    lambda noise=0.5: in_integers(),
], ids=["adaptive", "chain with item weights", "fixed point"])  # fmt: skip
def test_links_built_again_compile_nothing(small, num_compiled, build):
    run(small, build())
    before = num_compiled()
    run(small, build())
    run(small, build(0.7))
    assert num_compiled() == before


def test_a_users_link_with_other_numbers_compiles_nothing(small, num_compiled):
    def scale(factor, key, state, uploads):
        return uploads._replace(weights=factor * uploads.weights)

    run(small, link(client=Partial(scale, 0.5)))
    before = num_compiled()
    run(small, link(client=Partial(scale, 0.7)))
    assert num_compiled() == before
