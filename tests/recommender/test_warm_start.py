"""Training that starts from item factors of an earlier one: it needs fewer rounds, items found by label."""

import re

import numpy as np
import pytest
from references import ALPHA, NUM_FACTORS, REGULARIZATION

import fcf_jax as fcf
from fcf_jax.data import simulate_taste

OPTIONS = {"num_factors": NUM_FACTORS, "alpha": ALPHA, "regularization": REGULARIZATION}


def labelled(interactions, items, users):
    """Return the interactions of some users with some items, with the original numbers as labels."""
    kept = np.isin(interactions.item_ids, items) & np.isin(interactions.user_ids, users)
    return fcf.Interactions.from_labels(
        interactions.user_ids[kept],
        [f"item{item:02}" for item in interactions.item_ids[kept]],
        interactions.strengths[kept],
    )


@pytest.fixture(scope="module")
def earlier_and_later():
    """Half of the users with most items; then everybody with other items, some of them new."""
    plays = simulate_taste(num_users=120, num_items=40, mean_history=10, seed=0)
    return labelled(plays, range(0, 36), range(60)), labelled(plays, range(4, 40), range(120))


@pytest.fixture(scope="module")
def first(earlier_and_later):
    return fcf.FederatedCollaborativeFilter(**OPTIONS, num_rounds=20).fit(earlier_and_later[0])


def losses_of(model, histories):
    losses = []
    model.fit(histories, callback=lambda index, seconds, loss: losses.append(loss))
    return np.array(losses)


def test_a_warm_start_needs_fewer_rounds_to_the_same_loss(first, earlier_and_later):
    _, later = earlier_and_later
    cold, warm = (
        losses_of(
            fcf.FederatedCollaborativeFilter(**OPTIONS, num_rounds=20, initial_item_factors=start), later
        )
        for start in (None, first)
    )
    wanted = cold[12]
    rounds = [int((losses <= wanted).argmax()) for losses in (cold, warm)]
    assert warm[0] < 0.9 * cold[0]
    assert rounds[1] <= rounds[0] - 3, rounds


def test_items_are_matched_by_label_and_new_ones_drawn(first, earlier_and_later):
    _, later = earlier_and_later
    untrained = {"num_rounds": 0, "seed": 4}
    drawn = fcf.FederatedCollaborativeFilter(**OPTIONS, **untrained).fit(later)
    warm = fcf.FederatedCollaborativeFilter(**OPTIONS, **untrained, initial_item_factors=first).fit(later)
    known = np.isin(warm.item_labels, first.item_labels)
    assert 0 < known.sum() < len(known)
    places = [first.item_labels.tolist().index(label) for label in warm.item_labels[known]]
    np.testing.assert_array_equal(warm.item_factors[known], first.item_factors[places])
    np.testing.assert_array_equal(warm.item_factors[~known], drawn.item_factors[~known])


def test_limit_of_drawn_factors_is_a_fresh_start_and_training_goes_on(small):
    views = small.interactions.to_scipy()
    drawn = fcf.FederatedCollaborativeFilter(**OPTIONS, num_rounds=0).fit(views).item_factors
    fresh, given = (
        fcf.FederatedCollaborativeFilter(**OPTIONS, num_rounds=3, initial_item_factors=start).fit(views)
        for start in (None, drawn)
    )
    np.testing.assert_array_equal(given.item_factors, fresh.item_factors)
    again = fcf.FederatedCollaborativeFilter(**OPTIONS, num_rounds=3, initial_item_factors=fresh).fit(views)
    assert not np.array_equal(again.item_factors, fresh.item_factors)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (
            np.zeros((17, 4), np.float32),
            "expected item factors of shape (items, 5) to start from, got (17, 4)",
        ),
        (np.zeros((16, 5), np.float32), "expected item factors of 17 items to start from, got 16"),
        (np.full((17, 5), np.nan), "expected finite item factors to start from"),
        (fcf.FederatedCollaborativeFilter(), "expected a fitted model, got a new one"),
    ],
)
def test_a_start_that_does_not_fit_is_refused_in_one_line(start, message, small):
    model = fcf.FederatedCollaborativeFilter(**OPTIONS, initial_item_factors=start)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        model.fit(small.interactions.to_scipy())
    assert "\n" not in str(caught.value)


def test_a_start_without_a_common_item_is_refused(first):
    others = fcf.Interactions.from_labels(["a", "b"], ["x", "y"])
    model = fcf.FederatedCollaborativeFilter(**OPTIONS, initial_item_factors=first)
    with pytest.raises(
        ValueError, match=r"items in common .* got \['x', 'y'\] and \['item00', .*check the ids"
    ):
        model.fit(others)
