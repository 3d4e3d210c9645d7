"""Rows: ids, strengths and labels that are refused, and the merging of duplicates."""

import numpy as np
import pytest

from fcf_jax.data import Interactions


def test_sum_of_inexact_strengths_is_invariant_to_row_order():
    strengths = np.random.default_rng(0).lognormal(0, 8, 1000).astype(np.float32)
    ones = np.zeros(1000, int)
    forward = Interactions.from_arrays(ones, ones, strengths)
    assert forward.fingerprint() == Interactions.from_arrays(ones, ones, strengths[::-1]).fingerprint()


def test_integer_labels_sort_by_value():
    interactions = Interactions.from_labels([10, 9, -1], np.array([2**64 - 1, 1, 2**63], np.uint64))
    assert np.asarray(interactions.user_labels).tolist() == [-1, 9, 10]
    assert np.asarray(interactions.item_labels).tolist() == [1, 2**63, 2**64 - 1]


@pytest.mark.parametrize(
    ("duplicates", "timestamps", "expected"),
    [
        ("sum", None, 7.0),
        ("max", None, 4.0),
        ("last", None, 1.0),
        ("last", [5, 9, 9], 4.0),
        ("last", [9, 5, 5], 2.0),
    ],
)
def test_known_answer_duplicates(duplicates, timestamps, expected):
    merged = Interactions.from_arrays(
        [0, 0, 0], [1, 1, 1], [2.0, 4.0, 1.0], timestamps=timestamps, duplicates=duplicates
    )
    assert merged.strengths.tolist() == [expected]
    assert timestamps is None or np.asarray(merged.timestamps).tolist() == [9]


def test_duplicates_error_names_the_rows():
    with pytest.raises(ValueError, match=r"1 duplicates, first in rows 0 and 2"):
        Interactions.from_arrays([1, 0, 1], [1, 0, 1], duplicates="error")
    with pytest.raises(ValueError, match="sum, max, last, error"):
        Interactions.from_arrays([1], [1], duplicates="mean")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 5], [0, 0]), r"user ids in \[0, 3\), got 5 at position 1"),
        (([0, 1], [0, -1]), r"item ids in \[0, 4\), got -1 at position 1"),
        ((np.array([0, 2**32 + 1]), [0, 0]), "got 4294967297 at position 1"),
        ((np.array([0, 2**64 - 1], np.uint64), [0, 0]), "got 18446744073709551615 at position 1"),
        (([0.0, 1.5], [0, 0]), "whole user ids, got 1.5 at position 1"),
        (([0.0, np.nan], [0, 0]), "got nan at position 1"),
        ((["a", "b"], [0, 0]), "from_labels"),
        (([[0]], [0]), "1-D"),
        (([0, 1], [0]), "as many item ids"),
        (([0, 1], [0, 0], [1.0, np.inf]), "finite strengths, got inf at position 1"),
        (([0, 1], [0, 0], [np.nan, 1.0]), "finite strengths, got nan at position 0"),
        (([0, 1], [0, 0], [1e300, 1.0]), r"got 1e\+300 at position 0"),
        (([0, 0], [0, 0], [3e38, 3e38]), "finite strengths, got"),
        (([0, 1], [0, 0], [1.0]), "2 numeric strengths"),
    ],
)
def test_bad_arrays_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        Interactions.from_arrays(*arguments, num_users=3, num_items=4)


def test_ids_beyond_32_bits_are_refused_without_a_limit_too():
    with pytest.raises(ValueError, match=r"got 4294967301 at position 0.*from_labels"):
        Interactions.from_arrays(np.array([2**32 + 5]), [0])
    with pytest.raises(ValueError, match="num_users"):
        Interactions.from_arrays([0], [0], num_users=2**31)


def test_too_many_interactions_are_refused_with_their_size():
    ids = np.broadcast_to(np.int32(0), 2**31)  # one number in memory
    with pytest.raises(ValueError, match=r"got 2147483648 \(16.0 GiB\)"):
        Interactions.from_arrays(ids, ids)


@pytest.mark.parametrize("labels", [[1.5, 2.5], [["a"], ["b"]], ["a"]])
def test_bad_labels_are_refused(labels):
    with pytest.raises(ValueError, match="labels"):
        Interactions.from_arrays([0, 1], [0, 0], num_users=2, user_labels=labels)


def test_missing_label_is_refused():
    with pytest.raises(ValueError, match="got None at position 1"):
        Interactions.from_labels(np.array(["a", None], object), [1, 2])
