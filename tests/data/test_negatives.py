"""Sampled negatives as NCF publishes them, and the split that they name."""

import numpy as np
import pytest

from fcf_jax.data import Interactions
from fcf_jax.data.negatives import read_negatives
from fcf_jax.data.split import split_given
from fcf_jax.experiments.build.dataset import load_dataset
from fcf_jax.experiments.config.load import load_config

IDS = {str(number): number for number in range(6)}


def test_known_answer_of_lines(file):
    content = "(0,3)\t4\t5\t4\n\n(2, 1)\t3\t0\t2\t1\r\n"  # 4 twice, the test item among its negatives
    found = read_negatives(file(content), IDS, IDS, num_users=3)
    assert found.user_ids.tolist() == [0, 2] and found.item_ids.tolist() == [3, 1]
    assert found.items.tolist() == [[4, 5, -1], [-1, -1, -1], [3, 0, 2]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("(0,3)\t4\n0\t3\t4\n", r"data.csv:2: expected \(user,item\) and negatives"),
        ("(0,3)\t4\n(0,4)\t5\n", "data.csv:2: expected each user once, got 0"),
        (
            "(9,3)\t4\n",
            "data.csv:1: expected users and items of the data, got user 9; set data.negatives_ids",
        ),
        ("(0,3)\t4\t77\n", "data.csv:1: expected users and items of the data, got item 77"),
        ("\n", "expected test items with negatives, got none"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(file, content, message):
    with pytest.raises(ValueError, match=message):
        read_negatives(file(content), IDS, IDS, num_users=3)


def test_given_pairs_are_the_test_set_and_the_latest_of_the_rest_validates():
    interactions = Interactions.from_arrays(
        [0, 0, 0, 1, 1], [0, 1, 2, 1, 2], timestamps=[5, 6, 7, 1, 2], item_labels=[10, 20, 30]
    )
    split = split_given(interactions, np.array([1, 0]), np.array([1, 2]), validation=True)
    dense = [part.to_scipy().toarray().tolist() for part in (split.train, split.validation, split.test)]
    assert dense == [[[1, 0, 0], [0, 0, 1]], [[0, 1, 0], [0, 0, 0]], [[0, 0, 1], [0, 1, 0]]]
    with pytest.raises(ValueError, match=r"got user 1 and item 10 \(1 of 2 are not\)"):
        split_given(interactions, np.array([0, 1]), np.array([0, 0]))


@pytest.fixture(scope="module")
def ncf(data_folder):
    """The published protocol on MovieLens 1M: with the file of negatives, and with the ratings alone."""
    folder = data_folder / "ml-1m-ncf"
    if not folder.is_dir() or not (data_folder / "ml-1m").is_dir():
        pytest.skip(f"no ml-1m and ml-1m-ncf in {data_folder}")
    path = f"data.path={data_folder / 'ml-1m'}"
    negatives = f"data.negatives_path={folder / 'ml-1m.test.negative'}"
    splits = [load_dataset(load_config("movielens-1m-ncf", one)).split for one in ([path, negatives], [path])]
    ratings = np.loadtxt(data_folder / "ml-1m" / "ratings.dat", np.int64, delimiter=":", usecols=(0, 2, 6))
    published = np.loadtxt(folder / "ml-1m.test.rating", np.int64)
    return splits, ratings, published


def labelled(part):
    return np.stack([part.user_labels[part.user_ids], part.item_labels[part.item_ids]], axis=1)


def test_negatives_give_the_published_split_of_movielens_1m(ncf):
    (split, _), ratings, published = ncf
    items = list(dict.fromkeys(ratings[:, 1].tolist()))  # in the order of their first appearance
    expected = np.stack([published[:, 0] + 1, np.array(items)[published[:, 1]]], axis=1)
    np.testing.assert_array_equal(labelled(split.test), expected)
    held_out = set(map(tuple, expected.tolist()))
    rest = [pair for pair in map(tuple, ratings[:, :2].tolist()) if pair not in held_out]
    assert sorted(map(tuple, labelled(split.train).tolist())) == sorted(rest) and len(rest) == 994_169
    assert split.negatives.shape == (6040, 99)
    assert (split.negatives < 0).sum() == 156  # these lists name the test item itself, which is no negative
    assert not (split.negatives == split.test.item_ids[:, None]).any()
    observed = np.pad(split.train.to_scipy().toarray() > 0, ((0, 0), (0, 1)))
    assert not np.take_along_axis(observed, split.negatives, axis=1).any()


def test_ratings_alone_give_the_published_test_items_up_to_equal_times(ncf):
    (given, latest), ratings, published = ncf
    np.testing.assert_array_equal(latest.test.timestamps, published[:, 3])
    np.testing.assert_array_equal(given.test.timestamps, published[:, 3])
    last = np.zeros(6041, np.int64)
    np.maximum.at(last, ratings[:, 0], ratings[:, 2])
    times = np.bincount(ratings[ratings[:, 2] == last[ratings[:, 0]], 0], minlength=6041)[1:]
    is_unique = times == 1
    assert is_unique.sum() == 3574  # of 6040: the others have several latest items, of which one was taken
    np.testing.assert_array_equal(latest.test.item_ids[is_unique], given.test.item_ids[is_unique])
