"""Keys, seeds and shares of secure sums."""

import random

import numpy as np
import pytest

from fcf_jax.privacy.secure_sum.keys import (
    PRIME,
    Binding,
    draw_key_pair,
    interpolate,
    model_hash,
    pair_seed,
    recover,
    share,
)


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
