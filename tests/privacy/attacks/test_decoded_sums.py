"""Sums of uploads decoded exactly: who holds an item, from counts and lengths."""

import numpy as np
import pytest

from fcf_jax.privacy.attacks import decoded_sums
from fcf_jax.privacy.attacks.knowledge import Public
from fcf_jax.privacy.attacks.summed_uploads import score_links

RNG = np.random.default_rng(0)
NUM_ITEMS, NUM_FACTORS = 150, 12
PUBLIC = Public(0.4 * RNG.normal(size=(NUM_ITEMS, NUM_FACTORS)), 1.0, 1.0, 4.0)
HELD = RNG.random((12, NUM_ITEMS)) < np.minimum(0.6, 8 / np.arange(1, NUM_ITEMS + 1))  # a long tail
USERS = RNG.normal(size=(12, NUM_FACTORS))
WEIGHTS = np.where(HELD, 5 - 4 * USERS @ PUBLIC.item_factors.T, 0.0)


def attack(*, knows_counts=True, quantum=0.0, held=HELD, strength=1.0):
    weights = np.where(held, WEIGHTS, 0.0)
    parts = weights[:, :, None] * USERS[:, None, :]
    residuals = (np.round(parts / quantum) * quantum if quantum else parts).sum(axis=0)
    counts = held.sum(axis=0)
    errors = 1e-9 + quantum * np.sqrt(NUM_FACTORS / 12 * np.maximum(counts, 1))
    equations = decoded_sums.equations_of(
        PUBLIC, residuals, errors, strength=strength, counts=counts if knows_counts else None
    )
    return score_links(decoded_sums.decode(equations, counts > 0), held, USERS)


@pytest.mark.parametrize("quantum", [0.0, 2.0**-14])
def test_nearly_all_interactions_are_linked_in_fixed_point_too(quantum):
    score = attack(quantum=quantum)
    assert score.correct.sum() > 0.9 * HELD.sum() and score.correct.sum() == score.claimed.sum()


def test_counts_tell_more_than_recurring_residuals_alone():
    with_counts, alone = attack(), attack(knows_counts=False)
    assert 0 < alone.correct.sum() <= with_counts.correct.sum()
    assert alone.correct.sum() == alone.claimed.sum()


def test_clients_without_an_item_of_their_own_are_found_by_peeling():
    own = (HELD.sum(axis=0) == 1) & HELD[:3].any(axis=0)
    held = HELD & ~own  # three clients share all their items
    score = attack(held=held)
    assert score.correct[:3].min() > 0 and score.correct.sum() == score.claimed.sum()


def test_wrong_strength_explains_nothing():
    assert attack(strength=2.0).claimed.sum() < 0.05 * HELD.sum()


def test_nothing_touched_gives_nobody():
    assert attack(held=np.zeros_like(HELD)).claimed.sum() == 0
