"""Published splits: files in several forms that are parts of one data set."""

import pytest

from fcf_jax.data import Columns, read_published_split
from fcf_jax.data.published import read_parts

PAIRS = "0 3\n0 4\n1 4\n2 5\n2 3\n", "1 5\n2 4\n"
LISTS = "0 3 4\n1 4\n2 5 3\n7\n", "1 5\n2 4\n"  # the test set alone looks like pairs, user 7 has no item
TABS = "0\t3\t9\n0\t4\t1\n1\t4\t2\n2\t5\t1\n2\t3\t7\n", "1\t5\t1\n2\t4\t8\n"


@pytest.fixture
def parts(file):
    """Write files and read them as the parts of one split, as pairs of labels."""

    def read(contents, **options):
        files = [file(content, f"part{index}.txt") for index, content in enumerate(contents)]
        found, report = read_parts(files, **options)
        assert len({(part.num_users, part.num_items) for part in found}) == 1
        users, items = found[0].user_labels, found[0].item_labels
        pairs = [
            sorted(zip(users[part.user_ids].tolist(), items[part.item_ids].tolist(), strict=True))
            for part in found
        ]
        return pairs, report

    return read


@pytest.mark.parametrize("contents", [PAIRS, LISTS, TABS, (PAIRS[0], LISTS[1]), (LISTS[0], PAIRS[1])])
def test_every_form_holds_the_same_pairs(parts, contents):
    (train, test), report = parts(contents)
    assert train == [(0, 3), (0, 4), (1, 4), (2, 3), (2, 5)]
    assert test == [(1, 5), (2, 4)]
    assert report.num_rows == 7


def test_lists_of_one_length_follow_the_training_lists(parts):
    (train, test), report = parts(["0 3 4\n1 4\n2 5 3 6\n", "0 5 6\n1 3 5\n2 4 7\n"])
    assert len(train) == 6 and test == [(0, 5), (0, 6), (1, 3), (1, 5), (2, 4), (2, 7)]
    assert report.layout == "item-lists"
    (_, test), _ = parts(["0 3 4\n", "1 5 6\n"], layout="item-lists")  # too few to be told
    assert test == [(1, 5), (1, 6)]


def test_three_parts_and_chosen_columns(parts):
    contents = ["item,user\n7,1\n8,1\n", "item,user\n9,1\n", "item,user\n7,2\n"]
    (train, validation, test), report = parts(contents, columns=Columns("user", "item"))
    assert (train, validation, test) == ([(1, 7), (1, 8)], [(1, 9)], [(2, 7)])
    assert len(report.files) == 3


def test_a_folder_of_pairs_named_like_lightgcn_is_a_published_split(file, tmp_path):
    file(PAIRS[0], "train.txt")
    file(PAIRS[1], "test.txt")
    train, test = read_published_split(tmp_path)
    assert (train.num_interactions, test.num_interactions) == (5, 2)


def test_a_bad_line_is_named_with_its_file(parts):
    with pytest.raises(ValueError, match=r"part1.txt:2: .*"):
        parts([PAIRS[0], "1 5\n2\n"])
