"""Fixed point of secure sums."""

import pytest
from fcf_jax.privacy.secure_sum.fixed_point import FixedPoint, check_formats, choose_formats, decode, encode
from jax import numpy as jnp

from fcf_jax.core.records import SentNorms

HALVES = FixedPoint(bound=100.0, fraction_bits=1)


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
    bounds, stds = SentNorms(3.0, 0.01, None, 5e7), SentNorms(7.0, None, None, None)
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
        choose_formats(SentNorms(1.0, None, None, bound), max_clients=10)
