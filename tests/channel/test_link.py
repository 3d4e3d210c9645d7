"""Links of the channel, and chains of them."""

from functools import partial

import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp
from jax.tree_util import Partial
from references import NUM_FACTORS
from small_data import MODEL

from fcf_jax.channel import Part, Payload, Pieces, chain, choose_formats, clip_and_noise, fixed_point, link
from fcf_jax.core.cohort_sum import cohort_sum
from fcf_jax.core.federation import federated_cf, run_rounds

KEY, STEP = jax.random.key(3), optax.sgd(1e-3)
NOISE = {"clip_norms": Pieces(20.0, 1.0, 30.0, 15.0), "noise_multiplier": 0.1, "expected_cohort_size": 13}
FORMATS = choose_formats(Pieces(60.0, 20.0, 100.0, 500.0), max_clients=13)


def weigh(factor, key, state, uploads):
    return uploads._replace(weights=factor * uploads.weights)


def raise_to_half(key, state, uploads):
    return uploads._replace(weights=jnp.where(uploads.is_client, jnp.maximum(uploads.weights, 0.5), 0.0))


def add(number, key, state, sums):
    return sums._replace(loss=sums.loss + number), state


def double(key, state, sums):
    return sums._replace(loss=2 * sums.loss), state


def keep_key(key, state, sums):
    return sums, key


def count(key, state, sums):
    return sums, state + 1


@partial(jax.jit, static_argnames="num_rounds")
def trained(clients, channel, num_rounds=2):
    federation = federated_cf(MODEL, STEP, channel=channel, num_items=17, num_factors=NUM_FACTORS)
    return run_rounds(federation, KEY, federation.init(KEY), clients, num_rounds=num_rounds)


@pytest.fixture(scope="module")
def summed(small):
    y = jnp.asarray(small.item_factors, jnp.float32)
    return jax.jit(lambda channel: cohort_sum(MODEL, y, small.clients, channel=channel)[0])


def weighed_and_clipped(factor=1.0, noise_multiplier=0.1):
    noise = NOISE | {"noise_multiplier": noise_multiplier}
    return link(client=Partial(weigh, factor)), clip_and_noise(**noise)


def run(small, links, last):
    channel = chain(*links, last)
    federation = federated_cf(MODEL, STEP, channel=channel, num_items=17, num_factors=NUM_FACTORS)
    return run_rounds(federation, KEY, federation.init(KEY), small.clients, num_rounds=2)


def test_limit_of_an_empty_link_recovers_the_plain_round(small):
    plain, empty = trained(small.clients, None), trained(small.clients, link())
    jax.tree.map(np.testing.assert_array_equal, plain[1], empty[1])
    np.testing.assert_array_equal(plain[0].item_factors, empty[0].item_factors)


def test_chain_of_one_link_is_that_link():
    noised = clip_and_noise(**NOISE)
    assert chain(noised) is noised


def test_client_ends_weigh_what_is_summed(summed):
    plain = summed(link())
    halved = summed(chain(link(client=Partial(weigh, 0.5)), link(), link(client=Partial(weigh, 0.5))))
    for name in Pieces._fields:
        np.testing.assert_allclose(getattr(halved, name), 0.25 * getattr(plain, name), rtol=1e-5, atol=1e-5)
    assert int(halved.num_clipped) == 0 and int(halved.num_clients) == 13


def test_client_ends_apply_in_the_order_of_the_chain(summed):
    halve, at_least_half = link(client=Partial(weigh, 0.5)), link(client=raise_to_half)
    plain = float(summed(link()).loss)
    first, last = chain(halve, halve, at_least_half), chain(at_least_half, halve, halve)
    assert float(summed(first).loss) == pytest.approx(0.5 * plain, rel=1e-5)
    assert float(summed(last).loss) == pytest.approx(0.25 * plain, rel=1e-5)


def test_server_ends_apply_in_reverse(summed):
    sums = summed(link())
    both = chain(link(server=double), link(server=Partial(add, 1.0)))
    released, _ = both.server(KEY, both.init(), sums)
    np.testing.assert_allclose(released.loss, 2 * (sums.loss + 1), rtol=1e-6)


def test_every_link_has_its_own_key_and_state(summed):
    counting = link(init=lambda: jnp.zeros(()), server=count)
    three = chain(link(init=lambda: KEY, server=keep_key), counting, link(init=lambda: KEY, server=keep_key))
    _, (first, counted, last) = three.server(KEY, three.init(), summed(link()))
    assert int(counted) == 1
    assert not np.array_equal(jax.random.key_data(first), jax.random.key_data(last))


def test_clipping_chains_with_fixed_point(small):
    both = run(small, weighed_and_clipped(), fixed_point(FORMATS, max_clients=13))
    clipped = run(small, weighed_and_clipped(), link())
    # the same key of the noise; sums rounded to 13 units of 2^-20 or less, before a step of 1e-3
    np.testing.assert_allclose(both[0].item_factors, clipped[0].item_factors, rtol=1e-4, atol=1e-5)


def test_payload_passes_every_link():
    def upload_in_bytes(payload):
        return payload._replace(up=payload.up._replace(upload=payload.up.upload._replace(number_bits=8)))

    def no_loss(payload):
        return payload._replace(up=payload.up._replace(loss=Part(0)))

    dense = Payload(Pieces(Part(20, 5), Part(5, 5), Part(20), Part(1)), Part(20, 5))
    after = chain(link(payload=upload_in_bytes), link(payload=no_loss), link()).payload(dense)
    assert [part.num_bytes for part in dense.up] == [400, 100, 80, 4] and after.down == dense.down
    assert [part.num_bytes for part in after.up] == [100, 100, 80, 0]


def test_bytes_of_a_part_count_ids_and_scales_of_each_client():
    part = Part(np.array([0, 3]), row_width=5, number_bits=8, row_bits=64)
    np.testing.assert_array_equal(part.num_bytes, [0, 3 * (5 + 8)])


def rounded(step, key, state, item_factors):
    return step * jnp.round(item_factors / step)


def test_clients_solve_with_the_item_factors_that_they_receive(small):
    y, down = jnp.asarray(small.item_factors, jnp.float32), link(broadcast=Partial(rounded, 0.25))
    expected, _ = cohort_sum(MODEL, rounded(0.25, None, (), y), small.clients)
    sums, _ = cohort_sum(MODEL, y, small.clients, channel=chain(link(), down))
    jax.tree.map(np.testing.assert_array_equal, sums, expected)
    federation = federated_cf(MODEL, STEP, channel=down, num_items=17, num_factors=NUM_FACTORS)
    state, _ = federation.round(KEY, federation.init(KEY, y), small.clients)
    gradient = -2.0 * expected.upload + 2.0 * MODEL.regularization * y
    np.testing.assert_allclose(state.item_factors, y - 1e-3 * gradient, rtol=1e-5, atol=1e-5)  # float32


def test_item_factors_pass_broadcast_ends_in_reverse_order(small):
    y, step = jnp.asarray(small.item_factors, jnp.float32), Partial(rounded, 0.25)
    chained = chain(link(broadcast=lambda key, state, y: y + 0.1), link(), link(broadcast=step))
    received = chained.broadcast(None, chained.init(), y)
    np.testing.assert_allclose(received, rounded(0.25, None, (), y) + 0.1, rtol=1e-6)  # float32


@pytest.mark.parametrize("name", ["accumulation", "item_weights"])
def test_two_links_with_sums_or_weights_of_their_own_are_refused(name):
    words, weighted = fixed_point(FORMATS, max_clients=13), link(item_weights=jnp.ones(17))
    own = {"accumulation": words, "item_weights": weighted}[name]
    assert getattr(chain(link(), own), name) is not None
    with pytest.raises(ValueError, match=f"one link of the chain with {name}, got 2"):
        chain(own, link(), own)


def test_a_link_with_other_numbers_does_not_recompile(small, num_compiled):
    in_words = fixed_point(FORMATS, max_clients=13)
    first, _ = run(small, weighed_and_clipped(), in_words)
    before = num_compiled()
    second, _ = run(small, weighed_and_clipped(0.5, 0.2), in_words)
    assert num_compiled() == before
    assert not np.array_equal(first.item_factors, second.item_factors)
