"""The sum of a cohort with masks and without: the same integers, and a server that sees only the sum."""

import random

import jax
import numpy as np
import pytest
import references
from jax import numpy as jnp
from references import ALPHA, REGULARIZATION
from small_data import MODEL

from fcf_jax.channel import Pieces, chain, choose_formats, clip_and_noise, fixed_point
from fcf_jax.core.cohort_sum import cohort_sum
from fcf_jax.core.objective import implicit_feedback
from fcf_jax.privacy.secure_sum import (
    Encoding,
    NoiseShares,
    RoundTerms,
    SumRules,
    plain_integer_sum,
    rounds,
    secure_cohort_sum,
)

BOUNDS = Pieces(upload=60.0, user_gram=20.0, confidence_sum=100.0, loss=500.0)
FORMATS = choose_formats(BOUNDS, max_clients=13)
DENSE, SPARSE = Encoding(FORMATS), Encoding(FORMATS, is_sparse=True)
IN_WORDS = fixed_point(FORMATS, max_clients=13)
RULES = SumRules(min_cohort=4)
CLIP_NORMS = Pieces(5.0, 5.0, 50.0, 50.0)
CLIP = clip_and_noise(clip_norms=CLIP_NORMS, noise_multiplier=0.0, expected_cohort_size=13)


@pytest.fixture
def item_factors(small):
    return jnp.asarray(small.item_factors, jnp.float32)


@pytest.fixture
def secure(small, item_factors):
    def secure(encoding=DENSE, *, model=MODEL, seed=0, round_index=0, rules=RULES, earlier=(), **options):
        terms = RoundTerms(round_index, rules, earlier, random.Random(seed).randbytes)
        return secure_cohort_sum(model, item_factors, small.clients, encoding, terms, **options)

    return secure


@pytest.fixture
def plain(small, item_factors):
    def plain(encoding=DENSE, *, model=MODEL, **options):
        return plain_integer_sum(model, item_factors, small.clients, encoding, **options)

    return plain


@pytest.mark.parametrize("dropped", [(), (4,), (0, 5, 7, 12)], ids=["0 %", "10 %", "30 %"])
def test_secure_sum_agrees_with_plain_integer_sum_bit_for_bit(secure, plain, dropped):
    sums, view, info = secure(dropped=dropped, channel=CLIP)
    expected, words, _ = plain(dropped=dropped, channel=CLIP)
    np.testing.assert_array_equal(view.total, words)
    jax.tree.map(np.testing.assert_array_equal, sums, expected)
    assert int(sums.num_clients) == 13 - len(dropped) == view.masked.shape[0] == info.cohort.size
    assert info.num_clipped_clients > 0


def test_sums_match_dense_reference(small, plain):
    sums, _, info = plain()
    x = references.solve_users(small.item_factors, small.c, small.p, regularization=REGULARIZATION)
    upload = references.cohort_sum(x, small.item_factors, small.c, small.p)
    assert info.num_clipped_entries == 0
    step = 13 * 2.0**-FORMATS.upload.fraction_bits  # the rounding of 13 clients
    np.testing.assert_allclose(sums.upload, upload, rtol=1e-4, atol=step)  # float32, condition about 1e2
    np.testing.assert_allclose(sums.user_gram, references.user_gram(x), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(sums.confidence_sum, np.sum(small.c - 1, axis=0), rtol=1e-6, atol=1e-5)


def test_noise_of_the_clients_is_in_both_sums_and_of_the_size_asked_for(secure, plain):
    noise = NoiseShares(jax.random.key(0), Pieces(2.0, 2.0, 2.0, 2.0), num_shares=9)
    wide = choose_formats(BOUNDS, max_clients=13, noise_stds=Pieces(3.0, 3.0, 3.0, 3.0))
    noised, dropped = Encoding(wide, noise), (0, 5, 7, 12)
    _, view, _ = secure(noised, dropped=dropped)
    expected, words, _ = plain(noised, dropped=dropped)
    np.testing.assert_array_equal(view.total, words)
    without, _, _ = plain(Encoding(wide), dropped=dropped)
    spread = float(jnp.std(expected.upload - without.upload))
    assert 1.4 < spread < 2.6  # 2 expected, from 68 numbers
    with pytest.raises(ValueError, match="at least 9 survivors"):
        plain(noised, dropped=(*dropped, 1))
    with pytest.raises(ValueError, match="at least 9 survivors"):
        secure(noised, dropped=(*dropped, 1))


def test_other_numbers_do_not_recompile(secure, plain):
    def run(scale, round_index):
        model = MODEL._replace(weighting=implicit_feedback(alpha=scale * ALPHA), regularization=scale)
        norms = jax.tree.map(lambda norm: scale * norm, CLIP_NORMS)
        channel = clip_and_noise(clip_norms=norms, noise_multiplier=0.0, expected_cohort_size=13)
        plain(model=model, channel=channel)
        secure(model=model, channel=channel, round_index=round_index)
        return rounds._uploads._cache_size(), rounds._integer_sum._cache_size()

    assert run(1.0, 0) == run(0.5, 1)


def test_every_round_masks_anew(secure):
    _, first, _ = secure(seed=0)
    _, again, _ = secure(seed=1)
    np.testing.assert_array_equal(first.total, again.total)
    assert (first.masked != again.masked).mean() > 0.99


def test_small_cohorts_are_refused(secure):
    with pytest.raises(ValueError, match="cohort of at least 14"):
        secure(rules=SumRules(min_cohort=14))
    with pytest.raises(ValueError, match="at least 13 survivors"):
        secure(rules=SumRules(min_cohort=13), dropped=(3,))


def test_near_identical_cohorts_are_refused(secure):
    everybody = np.arange(13)
    secure(earlier=[everybody])
    secure(earlier=[everybody[:9]])
    with pytest.raises(ValueError, match="got a difference of 1"):
        secure(earlier=[everybody[:9], everybody[1:]])
    with pytest.raises(ValueError, match="got a difference of 2"):
        secure(dropped=(1,), earlier=[everybody[:12]])


def test_overflow_is_refused(secure, plain):
    too_many_bits = Encoding(choose_formats(BOUNDS, max_clients=6))
    for summed in secure, plain:
        with pytest.raises(ValueError, match="below 2\\^31"):
            summed(too_many_bits)


@pytest.mark.parametrize("clip", [None, CLIP], ids=["unclipped", "clipped"])
def test_masked_sum_agrees_with_that_of_a_training_to_the_last_unit(small, item_factors, secure, plain, clip):
    """The sum of words that clients mask is what a training under `secure_sum` steps on.

    Two programs may round what a client computes differently, and then a word.
    """
    channel = IN_WORDS if clip is None else chain(clip, IN_WORDS)
    found = jax.jit(lambda y, clients: cohort_sum(MODEL, y, clients, channel=channel)[0])(
        item_factors, small.clients
    )
    masked, view, info = secure(SPARSE, channel=clip)
    unmasked, words, _ = plain(SPARSE, channel=clip)
    np.testing.assert_array_equal(view.total, words)
    for name, number in FORMATS._asdict().items():
        near = {"rtol": 0, "atol": 4 * 2.0**-number.fraction_bits}  # of 13 clients
        np.testing.assert_allclose(getattr(masked, name), getattr(found, name), **near)
        np.testing.assert_array_equal(getattr(unmasked, name), getattr(masked, name))
    assert int(found.num_clipped) == info.num_clipped_clients
    assert int(found.num_clients) == info.cohort.size
