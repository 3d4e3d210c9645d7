"""Fixed-point sums: numbers as words, the rule against overflow, and rounds summed in words."""

from functools import partial
from importlib.metadata import version

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from small_data import MODEL

from fcf_jax.channel import (
    FixedPoint,
    Pieces,
    chain,
    check_formats,
    choose_formats,
    clip_and_noise,
    fixed_point,
)
from fcf_jax.channel.fixed_point import decode, encode
from fcf_jax.core.cohort_sum import cohort_sum
from fcf_jax.core.packing import pack_clients

HALVES = FixedPoint(bound=100.0, fraction_bits=1)
FORMATS = choose_formats(Pieces(60.0, 20.0, 100.0, 500.0), max_clients=13)
IN_WORDS = fixed_point(FORMATS, max_clients=13)
CLIP = clip_and_noise(clip_norms=Pieces(5.0, 5.0, 50.0, 50.0), noise_multiplier=0.0, expected_cohort_size=13)


def test_known_answer_negative_numbers_keep_their_bits():
    words, _ = encode(jnp.array([-1.0, -0.5, 0.0, 1.5]), HALVES)
    assert words.tolist() == [2**32 - 2, 2**32 - 1, 0, 3]


def test_sums_wrap_back_to_the_signed_sum():
    words, _ = encode(jnp.array([60.0, -99.5, 3.0]), HALVES)
    assert float(decode(jnp.sum(words, dtype=jnp.uint32), HALVES, jnp.float32)) == -36.5


def test_clipped_entries_are_counted():
    words, num_clipped = encode(jnp.array([100.0, 101.0, -1e9]), HALVES)
    assert int(num_clipped) == 2
    assert decode(words, HALVES, jnp.float32).tolist() == [100.0, 100.0, -100.0]


def test_one_more_bit_than_chosen_is_refused():
    bounds, stds = Pieces(3.0, 0.01, None, 5e7), Pieces(7.0, None, None, None)
    formats = choose_formats(bounds, max_clients=1000, noise_stds=stds)
    assert formats.confidence_sum is None
    for name in ("upload", "user_gram", "loss"):
        number = getattr(formats, name)
        more = formats._replace(**{name: number._replace(fraction_bits=number.fraction_bits + 1)})
        with pytest.raises(ValueError, match=f"sums of {name} below 2\\^31"):
            check_formats(more, max_clients=1000, noise_stds=stds)


@pytest.mark.parametrize("bound", [0.0, -1.0, float("inf")])
def test_bounds_out_of_range_are_refused(bound):
    with pytest.raises(ValueError, match="finite bound above 0 for loss"):
        choose_formats(Pieces(1.0, None, None, bound), max_clients=10)


def test_sums_that_could_overflow_are_refused():
    with pytest.raises(ValueError, match=r"below 2\^31"):
        fixed_point(FORMATS, max_clients=1300)


def test_pieces_without_format_are_refused():
    with pytest.raises(ValueError, match="a format for every piece"):
        fixed_point(FORMATS._replace(user_gram=None), max_clients=13)


@partial(jax.jit, static_argnames="mesh")
def in_words(y, clients, channel=IN_WORDS, mesh=None):
    return cohort_sum(MODEL, y, clients, channel=channel, mesh=mesh)


_DEFAULT: dict[str, bool | int] = {"xla_backend_optimization_level": 3}
if version("jaxlib").startswith("0.10."):
    _DEFAULT["xla_cpu_use_fusion_emitters"] = True
rounded_as_by_default = jax.jit(partial(cohort_sum, MODEL, channel=IN_WORDS), compiler_options=_DEFAULT)


@pytest.fixture
def item_factors(small):
    return jnp.asarray(small.item_factors, jnp.float32)


@pytest.mark.parametrize("clip", [None, CLIP], ids=["unclipped", "clipped"])
def test_sum_in_words_agrees_with_the_sum_in_floats(small, item_factors, clip):
    channel = IN_WORDS if clip is None else chain(clip, IN_WORDS)
    sums, _ = in_words(item_factors, small.clients, channel)
    expected, _ = jax.jit(partial(cohort_sum, MODEL))(item_factors, small.clients, channel=clip)
    assert int(sums.num_clipped_entries) == 0
    for found, wanted in zip(jax.tree.leaves(sums), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)  # float32, and 13 roundings
    assert (int(sums.num_clipped) > 0) == (clip is not None)


def test_sum_invariant_to_order_of_chunks_and_clients(small, item_factors):
    clients = small.clients
    order = np.random.default_rng(0).permutation(clients.owners.shape[0])
    chunked = clients._replace(
        rows=jax.tree.map(lambda leaf: leaf[order], clients.rows),
        owners=clients.owners[order],
        client_ids=clients.client_ids[order],
    )
    one, other = in_words(item_factors, clients)[0], in_words(item_factors, chunked)[0]
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("options", [{"chunk_slots": 16, "chunk_clients": 2}, {"chunk_slots": 512}])
def test_sum_invariant_to_chunking(small, item_factors, options):
    """To the bit, as JAX compiles by default; what the suite chooses for speed rounds differently."""
    other = pack_clients(small.interactions, row_width=4, **options)
    found, expected = (rounded_as_by_default(item_factors, one)[0] for one in (other, small.clients))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert int(found.num_clients) == 13 and int(found.num_clipped) == int(found.num_clipped_entries) == 0
