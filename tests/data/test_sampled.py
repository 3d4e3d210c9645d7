"""Sampled negatives of training."""

import numpy as np
import pytest

from fcf_jax.data import Interactions, with_negatives, with_pairs
from fcf_jax.data.selection import of_users

PLAYS = Interactions.from_arrays(
    [0, 0, 1, 3, 3, 3, 3, 3], [1, 4, 2, 0, 1, 2, 3, 4], [2.0, 1.0, 3.0, 1.0, 1.0, 1.0, 1.0, 1.0],
    num_users=4, num_items=5, user_labels=["a", "b", "c", "d"],
)  # fmt: skip
OBSERVED = {(user, item) for user, item in zip(PLAYS.user_ids.tolist(), PLAYS.item_ids.tolist(), strict=True)}


def test_negatives_are_unobserved_items_once_each_and_no_more_than_there_are():
    found = with_negatives(PLAYS, num_negatives=2, seed=1)
    of_pairs = dict(
        zip(zip(found.user_ids.tolist(), found.item_ids.tolist(), strict=True), found.strengths, strict=True)
    )
    assert {pair for pair, strength in of_pairs.items() if strength > 0} == OBSERVED
    negatives = np.bincount([user for (user, _), strength in of_pairs.items() if strength == 0], minlength=4)
    assert negatives.tolist() == [3, 2, 0, 0]  # user 0 has 3 others, user 3 none
    assert found.user_labels is not None and found.user_labels.tolist() == ["a", "b", "c", "d"]


def test_every_unobserved_item_is_drawn_and_no_other():
    pairs = with_pairs(PLAYS, num_negatives=400)
    assert pairs.indptr.tolist() == [0, 800, 1200, 1200, 1200]
    users = np.repeat(np.arange(4), np.diff(pairs.indptr))
    drawn = set(zip(users.tolist(), pairs.negative_ids.tolist(), strict=True))
    assert drawn == {(user, item) for user in (0, 1) for item in range(5)} - OBSERVED
    assert pairs.item_ids[:800].tolist() == [1] * 400 + [4] * 400 and set(pairs.strengths[:400]) == {2.0}
    counts = np.bincount(pairs.negative_ids[800:])[[0, 1, 3, 4]]
    assert counts.min() > 60  # 100 each, sd 9


def test_same_seed_same_sample():
    same, other = (with_pairs(PLAYS, num_negatives=30, seed=seed) for seed in (7, 8))
    assert np.array_equal(same.negative_ids, with_pairs(PLAYS, num_negatives=30, seed=7).negative_ids)
    assert not np.array_equal(same.negative_ids, other.negative_ids)


@pytest.mark.parametrize("sample", [with_negatives, with_pairs])
def test_sample_of_a_user_does_not_depend_on_other_users(sample):
    together, alone = sample(PLAYS, num_negatives=2), sample(of_users(PLAYS, np.array([1])), num_negatives=2)
    own = slice(*together.indptr[1:3])
    for name in ("item_ids", "strengths", "negative_ids"):
        if hasattr(together, name):
            np.testing.assert_array_equal(getattr(together, name)[own], getattr(alone, name))


@pytest.mark.parametrize("sample", [with_negatives, with_pairs])
def test_no_negatives_are_refused(sample):
    with pytest.raises(ValueError, match="num_negatives of at least 1, got 0"):
        sample(PLAYS, num_negatives=0)


def test_interactions_that_would_pass_for_negatives_are_refused():
    with pytest.raises(ValueError, match="strengths above 0, got 0"):
        with_negatives(Interactions.from_arrays([0], [0], [0.0]), num_negatives=1)


def test_pairs_have_no_form_by_item():
    with pytest.raises(TypeError, match="no form by item"):
        with_pairs(PLAYS, num_negatives=1).transpose()
