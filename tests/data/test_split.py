"""Splits: disjoint and complete; per user, every history keeps a training interaction."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcf_jax.data import (
    Interactions,
    Split,
    simulate_taste,
    split_cold_items,
    split_leave_one_out,
    split_per_user,
    split_temporal,
    split_users,
)
from fcf_jax.data.split import cap_histories

PAIRS = st.sets(st.tuples(st.integers(0, 5), st.integers(0, 12)), max_size=40).map(sorted)


def build(pairs, seed=0):
    users, items = np.array(pairs, np.int64).reshape(-1, 2).T
    rng = np.random.default_rng(seed)
    return Interactions.from_arrays(
        users,
        items,
        rng.random(len(pairs)),
        num_users=6,
        num_items=13,
        timestamps=rng.integers(0, 9, len(pairs)),
    )


def parts_of(split: Split):
    return [part for part in (split.train, split.validation, split.test) if part is not None]


def rows_of(part: Interactions):
    return zip(part.user_ids, part.item_ids, part.strengths, np.asarray(part.timestamps), strict=True)


def assert_partition(interactions, split):
    for part in parts_of(split):
        assert (part.num_users, part.num_items) == (interactions.num_users, interactions.num_items)
    rows = [row for part in parts_of(split) for row in rows_of(part)]
    assert sorted(rows) == sorted(rows_of(interactions))


@given(pairs=PAIRS, seed=st.integers(0, 9), test=st.floats(0, 0.6), validation=st.floats(0, 0.39))
def test_split_per_user_partitions_and_keeps_training_data(pairs, seed, test, validation):
    interactions = build(pairs)
    split = split_per_user(interactions, test_fraction=test, validation_fraction=validation, seed=seed)
    assert_partition(interactions, split)
    has_some = interactions.history_lengths > 0
    assert (split.train.history_lengths[has_some] >= 1).all()
    assert (split.test.history_lengths[interactions.history_lengths == 1] == 0).all()
    assert (split.validation is None) == (validation == 0)


@given(pairs=PAIRS, validation=st.booleans())
def test_split_leave_one_out_partitions_by_time(pairs, validation):
    interactions = build(pairs)
    split = split_leave_one_out(interactions, validation=validation)
    assert_partition(interactions, split)
    np.testing.assert_array_equal(split.test.history_lengths, interactions.history_lengths >= 2)
    if split.validation is not None:
        np.testing.assert_array_equal(split.validation.history_lengths, interactions.history_lengths >= 3)


@given(pairs=PAIRS.filter(bool))
def test_split_temporal_partitions_by_time(pairs):
    interactions = build(pairs)
    try:
        split = split_temporal(interactions, test_fraction=0.2, validation_fraction=0.2)
    except ValueError as error:  # too few different timestamps
        assert "got none before the cut" in str(error)
        return
    assert_partition(interactions, split)
    times = [np.asarray(part.timestamps) for part in parts_of(split)]
    assert all(a.max(initial=-1) < b.min(initial=99) for a, b in itertools.pairwise(times))


def test_known_answer_sizes_per_user():
    interactions = build(
        [(user, item) for user in range(6) for item in range(2 * user + 1)]
    )  # 1, 3, 5, ... 11
    split = split_per_user(interactions, test_fraction=0.2, validation_fraction=0.1, seed=1)
    assert split.test.history_lengths.tolist() == [0, 1, 1, 1, 2, 2]
    assert split.validation is not None
    assert split.validation.history_lengths.tolist() == [0, 0, 1, 1, 1, 1]
    assert split.num_users_without_test == 1 and split.num_users_without_train == 0


def labelled(part):
    labels = part.user_labels[part.user_ids], part.item_labels[part.item_ids]
    return set(zip(*(one.tolist() for one in labels), strict=True))


def test_held_out_users_are_whole_and_over_the_items_of_the_others():
    data = simulate_taste(num_users=80, num_items=60, mean_history=6, seed=3)
    options = {"num_test_users": 30, "num_validation_users": 20, "test_fraction": 0.25}
    split, again = (split_users(data, **options, seed=seed) for seed in (5, 5))
    assert [part.fingerprint() for part in split.parts] == [part.fingerprint() for part in again.parts]
    assert split_users(data, **options, seed=6).test.fingerprint() != split.test.fingerprint()
    groups = [split.train, split.test, split.validation]
    assert [part.num_users for part in groups] == [30, 30, 20]
    assert sorted(np.concatenate([part.user_labels for part in groups]).tolist()) == list(range(80))
    assert (split.train.item_counts > 0).all() and split.train.num_items < 60
    known = set(split.train.item_labels.tolist())
    kept = {
        pair for pair in zip(data.user_ids.tolist(), data.item_ids.tolist(), strict=True) if pair[1] in known
    }
    parts = list(map(labelled, split.parts))
    assert set.union(*parts) == kept and sum(map(len, parts)) == len(kept)
    for fold_in, wanted in ((split.fold_in, split.test), (split.validation_fold_in, split.validation)):
        np.testing.assert_array_equal(fold_in.user_labels, wanted.user_labels)
        lengths = fold_in.history_lengths + wanted.history_lengths
        np.testing.assert_array_equal(wanted.history_lengths, lengths // 4)
    assert split.histories is split.fold_in and split.num_users_without_train == 0
    with pytest.raises(ValueError, match="got 80 users, 70 to test and 10 to validate on; hold out fewer"):
        split_users(data, num_test_users=70, num_validation_users=10, seed=0)


def test_split_per_user_is_repeatable_and_random():
    interactions = build([(user, item) for user in range(6) for item in range(13)])
    splits = [split_per_user(interactions, seed=seed).test.fingerprint() for seed in (3, 3, 4)]
    assert splits[0] == splits[1] != splits[2]


def test_split_per_user_prefers_no_item():
    dense = Interactions.from_arrays(*np.divmod(np.arange(20_000), 10))
    counts = split_per_user(dense, test_fraction=0.3, seed=0).test.item_counts
    # 2000 users x 0.3 = 600 for each item, standard deviation 20.5: five of them.
    np.testing.assert_allclose(counts, 600, atol=103)


def test_leave_one_out_breaks_ties_by_item_id():
    interactions = Interactions.from_arrays([0, 0, 0, 1], [4, 2, 7, 3], timestamps=[9, 5, 9, 1])
    split = split_leave_one_out(interactions, validation=True)
    assert split.test.item_ids.tolist() == [7]
    assert split.validation is not None and split.validation.item_ids.tolist() == [4]
    assert split.train.item_ids.tolist() == [2, 3]


def test_temporal_keeps_equal_timestamps_together_and_counts_users_without_train():
    interactions = Interactions.from_arrays([0, 0, 0, 1], [0, 1, 2, 0], timestamps=[1, 2, 5, 5])
    split = split_temporal(interactions, test_fraction=0.25)
    assert split.test.history_lengths.tolist() == [1, 1]
    assert split.validation is None and split.num_users_without_train == 1
    assert split_temporal(interactions, test_fraction=0.0).test.num_interactions == 0


@pytest.mark.parametrize("split", [split_leave_one_out, split_temporal])
def test_splits_by_time_ask_for_timestamps(split):
    with pytest.raises(ValueError, match=r"data\.timestamp_column"):
        split(Interactions.from_arrays([0], [0]))


@pytest.mark.parametrize(
    ("test", "validation"), [(-0.1, 0.0), (1.0, 0.0), (0.5, 0.5), (0.2, -0.1), (float("nan"), 0.0)]
)
def test_fractions_out_of_range_are_refused(test, validation):
    with pytest.raises(ValueError, match="fractions >= 0 with a sum < 1"):
        split_per_user(build([(0, 0)]), test_fraction=test, validation_fraction=validation, seed=0)
    with pytest.raises(ValueError, match="fractions >= 0 with a sum < 1"):
        split_temporal(build([(0, 0)]), test_fraction=test, validation_fraction=validation)


def test_capped_histories_are_parts_of_the_whole_ones():
    histories = simulate_taste(num_users=300, num_items=40, mean_history=10, seed=2)
    capped = cap_histories(histories, max_user_items=6, seed=1)
    np.testing.assert_array_equal(capped.history_lengths, np.minimum(histories.history_lengths, 6))
    assert (capped.to_scipy() - histories.to_scipy()).max() == 0  # nothing new, and strengths stay
    assert capped.fingerprint() == cap_histories(histories, max_user_items=6, seed=1).fingerprint()
    assert capped.fingerprint() != cap_histories(histories, max_user_items=6, seed=2).fingerprint()
    others = histories.select(histories.user_ids != 7)
    kept = cap_histories(others, max_user_items=6, seed=1)
    assert kept.fingerprint() == capped.select(capped.user_ids != 7).fingerprint()
    with pytest.raises(ValueError, match="max_user_items"):
        cap_histories(histories, max_user_items=0, seed=1)


def test_cold_items_are_the_last_to_appear_and_in_no_other_part():
    users, items = [0, 1, 2, 0, 1, 2, 0, 1, 2, 0], [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    times = [5, 9, 1, 9, 7, 2, 7, 8, 3, 9]  # items appear at 5, 1, 2, 7, 3
    labels = ["e", "d", "c", "b", "a"]
    data = Interactions.from_arrays(users, items, timestamps=times, num_items=5, item_labels=labels)
    split = split_cold_items(data, cold_fraction=0.4, test_fraction=0.5, seed=0)
    assert split.cold.item_labels.tolist() == ["e", "b"]
    assert labelled_items(split.cold) == [(0, "b"), (0, "e"), (1, "b"), (1, "e")]
    assert split.train.item_labels.tolist() == split.test.item_labels.tolist() == ["d", "c", "a"]
    assert sorted(labelled_items(split.train) + labelled_items(split.test)) == [
        (0, "a"), (0, "d"), (1, "c"), (2, "a"), (2, "c"), (2, "d"),
    ]  # fmt: skip
    again = split_cold_items(data, cold_fraction=0.4, test_fraction=0.5, seed=1)
    assert again.cold.fingerprint() == split.cold.fingerprint()


def labelled_items(part):
    return sorted(zip(part.user_ids.tolist(), part.item_labels[part.item_ids].tolist(), strict=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cold_fraction": 1.0}, r"share of cold items in \(0, 1\), got 1.0"),
        ({"cold_fraction": 0.97}, "beside 13 cold items, got 13 items in all"),
        ({"timestamps": None}, "expected timestamps, got none; set data.timestamp_column"),
    ],
)
def test_cold_items_that_cannot_be_held_out_are_refused(changes, message):
    data = build([(user, item) for user in range(3) for item in range(13)])
    if "timestamps" in changes:
        data = dataclasses.replace(data, timestamps=None)
    with pytest.raises(ValueError, match=message):
        split_cold_items(data, cold_fraction=changes.get("cold_fraction", 0.1), seed=0)
