"""Fixed point, shares, keys and the graph of secure sums."""

import random

import numpy as np
import pytest
from jax import numpy as jnp

from fcf_jax.core.records import SentNorms
from fcf_jax.privacy.secure_sum.fixed_point import FixedPoint, check_formats, choose_formats, decode, encode
from fcf_jax.privacy.secure_sum.graph import degree_needed, is_connected, neighbor_graph, recovery_failure
from fcf_jax.privacy.secure_sum.keys import Binding, draw_key_pair, model_hash, pair_seed
from fcf_jax.privacy.secure_sum.shamir import PRIME, interpolate, recover, share

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


def test_threshold_shares_recover_whichever_they_are():
    rng = random.Random(0)
    secret = rng.randbytes(32)
    shares = share(secret, range(20), threshold=11, entropy=rng.randbytes)
    for _ in range(5):
        chosen = rng.sample(range(20), 11)
        assert recover({holder: shares[holder] for holder in chosen}, threshold=11) == secret


def test_fewer_shares_fit_every_secret():
    """One share less, and any secret at all lies on a polynomial of the right degree through them."""
    rng = random.Random(1)
    shares = share(rng.randbytes(32), range(20), threshold=11, entropy=rng.randbytes)
    known = {holder + 1: shares[holder] for holder in range(10)}
    for other in (0, 1, 2**256 - 1):
        missing = interpolate(known | {0: other}, at=11)
        assert 0 <= missing < PRIME
        assert interpolate(known | {11: missing}, at=0) == other
    with pytest.raises(ValueError, match="shares of at least 11 holders, got 10"):
        recover({holder: shares[holder] for holder in range(10)}, threshold=11)


def test_shares_of_two_secrets_are_refused():
    rng = random.Random(2)
    first, second = (share(rng.randbytes(32), range(5), threshold=3, entropy=rng.randbytes) for _ in range(2))
    with pytest.raises(ValueError, match="shares of one secret"):
        recover({0: first[0], 1: second[1], 2: first[2]}, threshold=3)


def test_both_sides_agree_on_a_seed():
    rng = random.Random(3)
    ours, theirs = draw_key_pair(rng.randbytes), draw_key_pair(rng.randbytes)
    binding = Binding(model_hash(np.ones(3)), 5)
    assert pair_seed(ours.private, theirs.public, binding, (1, 2)) == pair_seed(
        theirs.private, ours.public, binding, (2, 1)
    )


@pytest.mark.parametrize("change", ["model", "round", "pair"])
def test_masks_are_bound_to_model_round_and_pair(change):
    rng = random.Random(4)
    ours, theirs = draw_key_pair(rng.randbytes), draw_key_pair(rng.randbytes)
    model, other_model = np.zeros((2, 2), np.float32), np.array([[0, 0], [0, 1e-45]], np.float32)
    bindings = {
        "model": (Binding(model_hash(other_model), 5), (1, 2)),
        "round": (Binding(model_hash(model), 6), (1, 2)),
        "pair": (Binding(model_hash(model), 5), (1, 3)),
    }
    before = pair_seed(ours.private, theirs.public, Binding(model_hash(model), 5), (1, 2))
    assert pair_seed(ours.private, theirs.public, *bindings[change]) != before


def test_neighbors_are_mutual_and_as_many_as_asked_for():
    neighbors = neighbor_graph(101, degree=20, seed=b"a")
    assert neighbors.shape == (101, 20)
    for own, others in enumerate(neighbors):
        assert own not in others and len(set(others)) == 20
        assert all(own in neighbors[other] for other in others)
    assert is_connected(neighbors, np.ones(101, bool))
    assert (neighbors != neighbor_graph(101, degree=20, seed=b"b")).any()


def test_small_cohorts_all_are_neighbors():
    assert neighbor_graph(5, degree=20, seed=b"a").tolist() == [
        [other for other in range(5) if other != own] for own in range(5)
    ]


@pytest.mark.parametrize("degree", [18, 21])
def test_degrees_out_of_range_are_refused(degree):
    with pytest.raises(ValueError, match="even degree of at least 20"):
        neighbor_graph(100, degree=degree, seed=b"a")


def test_degree_needed_is_the_first_that_recovers():
    degree = degree_needed(1000, num_dropped=300)
    sizes = {"num_dropped": 300}
    assert recovery_failure(1000, degree=degree, threshold=degree // 2 + 1, **sizes) <= 1e-3
    assert recovery_failure(1000, degree=degree - 2, threshold=degree // 2, **sizes) > 1e-3
