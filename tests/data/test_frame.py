"""pandas DataFrames: the interactions of the same table in a file, columns by name, and a short repr."""

import io

import numpy as np
import pandas as pd
import pytest
from tables import PLAIN

from fcf_jax.data import Columns, Interactions, read_interactions

FRAME = pd.read_csv(io.StringIO(PLAIN))
FOREIGN = FRAME.rename(columns={"user": "who", "item": "what", "rating": "how much"})


@pytest.mark.parametrize(
    "frame",
    [
        FRAME,
        FRAME[["rating", "item", "user"]].rename(columns={"user": "userId", "item": "movieId"}),
        FRAME.set_index(["user", "item"]),
        FRAME.set_axis(["x", "y", "x"]),  # an index without a name, with repeats
        FRAME.astype({"user": "Int64", "item": "category", "rating": "float32"}),
        FRAME.assign(item=FRAME["item"].astype("string")),
    ],
    ids=["plain", "common names", "index", "labelled rows", "nullable and category", "string"],
)
def test_a_frame_is_read_like_a_file(frame, file):
    expected, _ = read_interactions(file(PLAIN))
    interactions, report = read_interactions(frame)
    assert interactions.fingerprint() == expected.fingerprint()
    assert Interactions.from_frame(frame).fingerprint() == expected.fingerprint()
    assert report.layout == "frame" and report.num_rows == 3


def test_columns_of_a_frame_are_chosen_by_name_or_number():
    expected = Interactions.from_frame(FRAME).fingerprint()
    named = Interactions.from_frame(FOREIGN, user="who", item="what", strength="how much")
    numbered = Interactions.from_frame(FOREIGN.set_axis(range(3), axis=1), user=0, item=1, strength=2)
    read, _ = read_interactions(FOREIGN, columns=Columns("who", "what", "how much"))
    assert {one.fingerprint() for one in (named, numbered, read)} == {expected}
    times = pd.to_datetime([100, 200, 300], unit="s")
    timed = Interactions.from_frame(FRAME.assign(seen=times), strength="", timestamp="seen")
    assert np.asarray(timed.timestamps).tolist() == [200, 300, 100]
    assert timed.strengths.tolist() == [1, 1, 1]


def test_zeros_and_repeated_pairs_of_a_frame():
    frame = pd.DataFrame({"user": [1, 1, 2], "item": [5, 5, 5], "plays": [2, 3, 0]})
    assert Interactions.from_frame(frame).strengths.tolist() == [5, 0]
    assert Interactions.from_frame(frame, duplicates="max").strengths.tolist() == [3, 0]
    interactions, report = read_interactions(frame)
    assert interactions.num_interactions == 1
    assert (report.duplicates_merged, report.zeros_dropped) == (1, 1)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (
            FOREIGN,
            "DataFrame: no user, item or strength column recognized among who, what, how much; "
            "pass user='who', item='what', strength='how much', or others",
        ),
        (
            FRAME.assign(rating=[1, np.nan, 2]),
            "DataFrame: row 1 .0-based.: expected a finite number as strength",
        ),
        (FRAME.assign(user=[1, None, 2]), "DataFrame: row 1 .0-based.: "),
        (FRAME.set_axis(["user", "item", "user"], axis=1), "expected every column once, got user twice"),
        (FRAME.groupby(["user", "item"]).size(), "expected a pandas DataFrame, got Series; .reset_index"),
        ([1, 2], "expected a pandas DataFrame, got list"),
    ],
)
def test_a_frame_that_does_not_fit_is_refused_in_one_line(frame, message):
    with pytest.raises(ValueError, match=message) as caught:
        Interactions.from_frame(frame)
    assert "\n" not in str(caught.value)


def test_a_separator_or_layout_of_text_does_not_fit_a_frame():
    for options in ({"separator": ","}, {"layout": "movielens-1m"}):
        with pytest.raises(ValueError, match="DataFrame: expected no layout or separator"):
            read_interactions(FRAME, **options)


def test_repr_is_one_short_line():
    views = Interactions.from_frame(FRAME)
    assert repr(views) == (
        "Interactions(num_users=2, num_items=2, num_interactions=3, strengths=1..3, "
        "user_labels=[9, 10], item_labels=['a', 'b'])"
    )
    many = Interactions.from_labels([f"\x1b[31m{n:04}" for n in range(5000)], np.arange(5000))
    assert len(repr(many)) < 250 and "\x1b" not in repr(many) and "..." in repr(many)
    nothing = Interactions.from_arrays([], [], num_users=3, num_items=4)
    assert repr(nothing) == "Interactions(num_users=3, num_items=4, num_interactions=0)"
