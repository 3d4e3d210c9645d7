"""Interactions: construction, views, transforms and fingerprint, invariant to the order of rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from fcf_jax.data import DuplicatePolicy, Interactions, check_implicit

# A row: user, item, strength (a float32 with an exact sum), timestamp.
ROWS = st.lists(
    st.tuples(
        st.integers(0, 6), st.integers(0, 9), st.integers(-40, 40).map(lambda n: n / 4), st.integers(0, 5)
    ),
    max_size=40,
)


def build(rows, duplicates: DuplicatePolicy = "sum", timestamps=True):
    users, items, strengths, times = np.array(rows, np.float64).reshape(-1, 4).T
    return Interactions.from_arrays(
        users.astype(int),
        items.astype(int),
        strengths,
        num_users=7,
        num_items=10,
        timestamps=times.astype(int) if timestamps else None,
        duplicates=duplicates,
    )


def views():
    return Interactions.from_arrays([0, 0, 1, 3], [2, 0, 2, 1], [3.0, 1.0, 5.0, 2.0])


def test_known_answer_of_a_small_matrix():
    interactions = views()
    assert interactions.indptr.tolist() == [0, 2, 3, 3, 4]
    assert interactions.item_ids.tolist() == [0, 2, 2, 1]
    assert interactions.strengths.tolist() == [1.0, 3.0, 5.0, 2.0]
    assert interactions.history_lengths.tolist() == [2, 1, 0, 1]
    assert interactions.item_counts.tolist() == [1, 1, 2]
    assert interactions.user_ids.tolist() == [0, 0, 1, 3]


@pytest.mark.parametrize("duplicates", ["sum", "max", "last"])
@given(rows=ROWS, seed=st.integers(0, 99))
def test_invariant_to_row_order(duplicates, rows, seed):
    shuffled = [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]
    assert build(rows, duplicates).fingerprint() == build(shuffled, duplicates).fingerprint()


@given(rows=ROWS)
def test_round_trip_through_scipy(rows):
    interactions = build(rows, timestamps=False)
    matrix = interactions.to_scipy()
    assert matrix.indices.dtype == matrix.indptr.dtype == np.int32  # what `implicit` takes
    assert Interactions.from_scipy(matrix).fingerprint() == interactions.fingerprint()


@given(rows=ROWS)
def test_transpose_matches_dense_reference_and_is_its_own_inverse(rows):
    interactions = build(rows)
    swapped = interactions.transpose()
    np.testing.assert_array_equal(swapped.to_scipy().toarray(), interactions.to_scipy().toarray().T)
    assert swapped.transpose().fingerprint() == interactions.fingerprint()


@given(rows=ROWS)
def test_labels_round_trip(rows):
    users = [f"user {row[0]}" for row in rows]
    items = [2**62 + row[1] for row in rows]
    interactions = Interactions.from_labels(np.array(users, object), np.array(items, np.int64))
    assert interactions.user_labels is not None and interactions.item_labels is not None
    pairs = zip(
        interactions.user_labels[interactions.user_ids].tolist(),
        interactions.item_labels[interactions.item_ids].tolist(),
        strict=True,
    )
    assert set(pairs) == set(zip(users, items, strict=True))


def test_constructor_refuses_unsorted_rows_and_other_dtypes():
    one = np.ones(2, np.float32)
    bounds = np.array([0, 2])
    with pytest.raises(ValueError, match="ascending"):
        Interactions(bounds, np.array([1, 0], np.int32), one, num_items=2)
    with pytest.raises(ValueError, match="ascending"):
        Interactions(bounds, np.array([0, 2], np.int32), one, num_items=2)
    with pytest.raises(ValueError, match="item_ids as 1-D int32"):
        Interactions(bounds, np.array([0, 1]), one, num_items=2)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="indptr to rise"):
        Interactions(np.array([0, 1]), np.array([0, 1], np.int32), one, num_items=2)


def test_arrays_are_read_only_but_the_callers_stay_writable():
    strengths = np.ones(4, np.float32)
    interactions = views().with_strengths(strengths)
    with pytest.raises(ValueError, match="read-only"):
        interactions.strengths[0] = 2
    strengths[0] = 2
    interactions.to_scipy().data[0] = 2


def test_zeros_are_kept_until_dropped():
    matrix = sparse.csr_array((np.array([0.0, 2.0]), np.array([0, 1]), np.array([0, 2])), shape=(1, 3))
    interactions = Interactions.from_scipy(matrix)
    assert interactions.strengths.tolist() == [0.0, 2.0]
    assert interactions.drop_zeros().item_ids.tolist() == [1]
    assert interactions.drop_zeros().num_items == 3


def test_select_keeps_users_items_and_labels():
    labelled = Interactions.from_labels(["a", "a", "b"], ["x", "y", "x"], timestamps=[3, 2, 1])
    kept = labelled.select(np.array([False, True, False]))
    assert kept.history_lengths.tolist() == [1, 0] and kept.num_items == 2
    assert kept.timestamps is not None and kept.timestamps.tolist() == [2]
    assert kept.user_labels is not None and kept.user_labels.tolist() == ["a", "b"]
    with pytest.raises(ValueError, match="bool mask"):
        labelled.select(np.array([0, 1, 0]))  # pyright: ignore[reportArgumentType]


def test_known_answer_strength_transforms():
    assert views().binarized().strengths.tolist() == [1.0] * 4
    expected = np.log1p(np.array([1.0, 3.0, 5.0, 2.0]) / 2.0)
    np.testing.assert_allclose(views().log_scaled(epsilon=2.0).strengths, expected, rtol=1e-6)  # float32
    with pytest.raises(ValueError, match="epsilon > 0"):
        views().log_scaled(epsilon=0.0)
    with pytest.raises(ValueError, match=r"-1 for user 0, item 0"):
        Interactions.from_arrays([0], [0], [-1.0]).log_scaled()


def test_filter_min_counts_cascades_and_keeps_labels():
    # Item y has one user only; without it user b has one item only; without b nothing else changes.
    rows = [("a", "x"), ("a", "z"), ("b", "x"), ("b", "y"), ("c", "x"), ("c", "z")]
    users, items = zip(*rows, strict=True)
    kept = Interactions.from_labels(users, items).filter_min_counts(
        min_user_interactions=2, min_item_interactions=2
    )
    assert np.asarray(kept.user_labels).tolist() == ["a", "c"]
    assert np.asarray(kept.item_labels).tolist() == ["x", "z"]
    assert kept.to_scipy().toarray().tolist() == [[1, 1], [1, 1]]
    with pytest.raises(ValueError, match=">= 1"):
        kept.filter_min_counts(min_user_interactions=0)


def test_filter_min_counts_drops_just_the_empty_by_default():
    kept = Interactions.from_arrays([0, 2], [1, 3], num_users=4, num_items=5).filter_min_counts()
    assert np.asarray(kept.user_labels).tolist() == [0, 2]
    assert np.asarray(kept.item_labels).tolist() == [1, 3]


@given(rows=ROWS, minimum=st.integers(1, 4))
def test_filter_min_counts_leaves_enough_of_everything(rows, minimum):
    kept = build(rows).filter_min_counts(min_user_interactions=minimum, min_item_interactions=minimum)
    assert (kept.history_lengths >= minimum).all() and (kept.item_counts >= minimum).all()


def test_fingerprint_notices_every_part():
    base = Interactions.from_labels(["a", "b"], ["x", "y"], timestamps=[1, 2])
    others = [
        Interactions.from_labels(["a", "c"], ["x", "y"], timestamps=[1, 2]),
        Interactions.from_labels(["a", "b"], ["x", "z"], timestamps=[1, 2]),
        Interactions.from_labels(["a", "b"], ["x", "y"], timestamps=[1, 3]),
        Interactions.from_labels(["a", "b"], ["x", "y"], [1.0, 2.0], timestamps=[1, 2]),
        Interactions.from_labels(["a", "b"], ["x", "y"]),
    ]
    assert len({one.fingerprint() for one in [base, *others]}) == 6


def test_fingerprint_is_pinned():
    # Checkpoints hold it: a change here makes every older checkpoint refuse its own data set.
    assert views().fingerprint()[:16] == "a72307220ecee6ec"


def test_no_interactions_at_all():
    empty = Interactions.from_arrays([], [], num_users=2, num_items=3)
    assert empty.history_lengths.tolist() == [0, 0] and empty.transpose().num_users == 3
    check_implicit(empty, alpha=40.0)


def test_check_implicit_names_user_and_item():
    labelled = Interactions.from_labels(["ann", "bob"], [7, 9], [2.0, 3e7])
    check_implicit(labelled, alpha=0.0)
    with pytest.raises(ValueError, match=r"<= 1e\+08, got 1.2e\+08 for user bob, item 9; lower model.alpha"):
        check_implicit(labelled, alpha=4.0)
    with pytest.raises(ValueError, match="strengths >= 0 for implicit feedback, got -3 for user ann, item 7"):
        check_implicit(labelled.with_strengths([-3.0, 1.0]), alpha=1.0)
    with pytest.raises(ValueError, match="alpha >= 0"):
        check_implicit(labelled, alpha=float("nan"))
