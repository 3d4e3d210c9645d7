"""Links of compression: the sum under each, alone and in chains, against a dense float64 reference."""

from functools import partial

import dense_uploads as dense
import jax
import numpy as np
import pytest
from jax import numpy as jnp
from references import relative_error
from small_data import MODEL

from fcf_jax.channel import (
    Part,
    Payload,
    Pieces,
    chain,
    choose_formats,
    clip_and_noise,
    fixed_point,
    item_subset,
    quantize_items,
    quantize_uploads,
    random_projection,
    top_rows,
)
from fcf_jax.channel.projection import draw_projection
from fcf_jax.channel.quantization import levels_of, quantize_rows, uniform_of
from fcf_jax.channel.top_rows import ranks_within
from fcf_jax.core.cohort_sum import cohort_sum

KEY = jax.random.key(3)
CLIP_NORMS = Pieces(6.0, 0.5, None, None)
CLIP = clip_and_noise(clip_norms=CLIP_NORMS, noise_multiplier=0.0, expected_cohort_size=13)
SUBSET = item_subset(0.6, num_items=17, num_factors=5)
IN_WORDS = fixed_point(choose_formats(Pieces(200.0, 100.0, 100.0, 500.0), max_clients=13), max_clients=13)
LINKS = {  # each link, with what it does to a client in the reference
    "8 bits": (quantize_uploads(8), partial(dense.quantized, bits=8)),
    "3 bits at random": (
        quantize_uploads(3, is_stochastic=True),
        partial(dense.quantized_at_random, bits=3),
    ),
    "top rows": (top_rows(0.5), partial(dense.with_top_rows, share=0.5)),
    "projection": (random_projection(3), partial(dense.projected, num_directions=3)),
    "clip": (CLIP, "clip"),
    "subset": (SUBSET, None),
}


@jax.jit
def summed(channel, y, clients):
    return cohort_sum(MODEL, y, clients, channel=channel, key=KEY)[0]


def compare(small, names, *, last=(), tolerance=2e-5):
    """Sum through the links of these names, and once more dense."""
    channel = chain(*(LINKS[name][0] for name in names), *last)
    y = jnp.asarray(small.item_factors, jnp.float32)
    sums = summed(channel, y, small.clients)
    received = small.item_factors
    if "subset" in names:
        is_sent = np.asarray(SUBSET.init().is_sent)
        assert is_sent.sum() == 10
        received = np.where(is_sent[:, None], received, 0.0)
    clients, num_ends = dense.clients_of(small, received), len(names) + len(last)
    if "subset" in names:  # what is not sent is no observation
        clients = [one._replace(own=one.own & is_sent, rows=one.rows * is_sent[:, None]) for one in clients]
    keys = [KEY] if num_ends == 1 else jax.random.split(KEY, num_ends)
    for name, key in zip(names, keys, strict=False):
        step = LINKS[name][1]
        if step == "clip":
            step = partial(dense.clipped, clip_norms=CLIP_NORMS, item_factors=received)
        clients = clients if step is None else [step(one, key) for one in clients]
    upload, gram = dense.total(clients, received)
    assert relative_error(sums.upload, upload) <= tolerance, names
    assert relative_error(sums.user_gram, gram) <= tolerance, names
    return sums


@pytest.mark.parametrize("name", LINKS)
def test_sum_under_each_link_matches_dense_reference(small, name):
    compare(small, [name], tolerance=3e-5)  # float32; norms are rounded up by 1e-5


@pytest.mark.parametrize(("seed", "last"), [(0, ()), (1, (IN_WORDS,))], ids=["floats", "fixed point"])
def test_links_in_random_order_match_dense_reference(small, seed, last):
    """In one of the two, the clip comes behind the projection, which makes rows up to 5 / 3 as long."""
    names = [str(name) for name in np.random.default_rng(seed).permutation(list(LINKS)) if name != "subset"]
    assert (names.index("clip") > names.index("projection")) == (seed == 0)
    sums = compare(
        small, ["subset", *names], last=last, tolerance=1e-4 if last else 5e-5
    )  # 2^-f of each number
    assert 0 < int(sums.num_clipped) < 13 and int(sums.num_clients) == 13
    assert int(sums.num_clipped_entries) == 0


def test_fixed_point_alone_may_replace_the_sums_of_rows():
    assert chain(LINKS["8 bits"][0], IN_WORDS).accumulation.add.func is IN_WORDS.accumulation.add.func
    with pytest.raises(ValueError, match="one link of the chain with accumulation, got 2"):
        chain(LINKS["8 bits"][0], IN_WORDS, IN_WORDS)


def test_limit_of_all_rows_is_lossless(small):
    """The own-rows form: row by row, the sums are those of the factored form."""
    y = jnp.asarray(small.item_factors, jnp.float32)
    whole, plain = (summed(channel, y, small.clients) for channel in (top_rows(1.0), None))
    for found, expected in zip(whole[:4], plain[:4], strict=True):
        assert relative_error(found, expected) <= 1e-6  # float32, added in another order


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_quantization_error_is_within_its_bound(bits):
    rows = jnp.asarray(np.random.default_rng(0).normal(size=(50, 7)), jnp.float32).at[3].set(0.0)
    step = jnp.max(jnp.abs(rows), axis=1, keepdims=True) / levels_of(bits)
    nearest = quantize_rows(rows, levels_of(bits))
    assert np.all(np.abs(nearest - rows) <= step * (0.5 + 1e-5))
    np.testing.assert_array_equal(nearest[3], 0.0)
    assert all(
        len(np.unique(np.round(row / unit))) < 2**bits
        for row, unit in zip(nearest, step, strict=True)
        if unit
    )
    draws = jax.vmap(
        lambda key: quantize_rows(rows, levels_of(bits), uniform_of(key, rows.shape, rows.dtype))
    )(jax.random.split(KEY, 4000))
    assert np.all(np.abs(draws - rows) < step * (1 + 1e-5) + 1e-12)
    # a draw has a standard deviation of at most half a step: 5 of those of the mean of 4000
    assert np.all(np.abs(draws.mean(axis=0) - rows) <= 5 * 0.5 * step / np.sqrt(4000) + 1e-6)


def test_projection_is_orthonormal_and_unbiased():
    drawn = jax.vmap(lambda key: draw_projection(key, 6, 2))(jax.random.split(KEY, 3000))
    np.testing.assert_allclose(drawn[0].T @ drawn[0], 3.0 * np.eye(2), atol=1e-5)
    product = np.einsum("nkd,nld->nkl", drawn, drawn)
    # an entry has a variance below (6 / 2)^2 = 9: 5 standard deviations of the mean of 3000
    assert np.abs(product.mean(axis=0) - np.eye(6)).max() <= 5 * 3 / np.sqrt(3000)


def test_ranks_are_within_the_client():
    owners = jnp.array([0, 0, 1, 3])  # the last is padding
    values = jnp.array([[1.0, 5.0], [3.0, 9.0], [2.0, 4.0], [7.0, 8.0]])
    mask = jnp.array([[True, True], [True, False], [True, True], [False, False]])
    np.testing.assert_array_equal(ranks_within(owners, values, mask)[:3], [[2, 0], [1, 3], [1, 0]])


def test_clients_solve_with_the_quantized_items_that_they_receive(small):
    y = jnp.asarray(small.item_factors, jnp.float32)
    sums = summed(quantize_items(4), y, small.clients)
    received = dense.rounded(small.item_factors, 4)
    upload, gram = dense.total(dense.clients_of(small, received), received)
    assert relative_error(sums.upload, upload) <= 2e-5 and relative_error(sums.user_gram, gram) <= 2e-5
    at_random = quantize_items(4, is_stochastic=True)
    draws = jax.vmap(lambda key: at_random.broadcast(key, (), y))(jax.random.split(KEY, 4000))
    step = np.abs(y).max(axis=1, keepdims=True) / 7
    assert np.all(np.abs(draws.mean(axis=0) - y) <= 5 * 0.5 * step / np.sqrt(4000) + 1e-6)


def test_payload_of_each_link():
    own = np.array([2.0, 10.0])
    rows, matrix = Part(own, 25, row_bits=32), Part(25, 25)
    before = Payload(Pieces(rows, matrix, Part(own), Part(1)), Part(own + 25, 25))

    def after(link):
        return link.payload(before)

    assert after(quantize_uploads(8)).up.upload == rows._replace(number_bits=8, row_bits=64)
    assert after(quantize_uploads(8)).up.user_gram == Part(25, 25, 8, 32)
    assert after(quantize_uploads(8)).down == before.down
    assert after(quantize_items(4)).down == before.down._replace(number_bits=4, row_bits=32)
    assert after(random_projection(6)).up == before.up._replace(upload=rows._replace(row_width=6))
    np.testing.assert_array_equal(after(top_rows(0.25)).up.upload.num_rows, [1, 3])
    assert after(top_rows(0.25)).up.confidence_sum == before.up.confidence_sum
    subset = after(item_subset(0.5, num_items=17, num_factors=25))
    np.testing.assert_array_equal(subset.up.upload.num_rows, [1, 5])
    np.testing.assert_array_equal(subset.down.num_rows, [13.5, 17.5])
    assert subset.down.row_bits == 32  # which items they are of
    both = chain(random_projection(6), quantize_uploads(8)).payload(before)
    np.testing.assert_array_equal(both.up.upload.num_bytes, own * (6 * 8 + 64) / 8)


@pytest.mark.parametrize(("build", "message"), [
    (lambda: quantize_uploads(1), "bits of at least 2, a sign and a step, got 1"),
    (lambda: quantize_items(0), "bits of at least 2, a sign and a step, got 0"),
    (lambda: top_rows(0.0), "a share above 0 and at most 1, got 0.0"),
    (lambda: item_subset(1.5, num_items=3, num_factors=2), "a share above 0 and at most 1, got 1.5"),
    (lambda: item_subset(0.5, num_items=3, num_factors=2, choice="best"), "bandit, got 'best'"),
    (lambda: random_projection(0), "num_directions of at least 1, got 0"),
])  # fmt: skip
def test_settings_out_of_range_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(("channel", "key", "message"), [
    (random_projection(6), KEY, "at most 5 directions, as rows have numbers, got 6"),
    (random_projection(3), None, "the key of the round"),
    (quantize_uploads(8, is_stochastic=True), None, "the key of the round"),
    (quantize_items(8, is_stochastic=True), None, "the key of the round"),
])  # fmt: skip
def test_links_without_what_they_need_are_refused(small, channel, key, message):
    y = jnp.asarray(small.item_factors, jnp.float32)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: cohort_sum(MODEL, y, small.clients, channel=channel, key=key))


def test_pairs_are_refused(small):
    """Histories with negatives, which a pairwise objective would give them."""
    y, refused = jnp.asarray(small.item_factors, jnp.float32), "interactions that stand alone, got pairs"

    def paired(channel):
        def client(key, state, uploads):
            observations = uploads.observations
            pairs = observations._replace(negative_ids=observations.item_ids)
            return channel.client(key, state, uploads._replace(observations=pairs))

        return channel._replace(client=client)

    for channel in (top_rows(0.5), SUBSET):
        with pytest.raises(ValueError, match=refused):
            jax.eval_shape(
                lambda channel=channel: cohort_sum(MODEL, y, small.clients, channel=paired(channel))
            )
