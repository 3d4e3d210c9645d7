"""Splits of an experiment by its configuration."""

import pytest

from fcf_jax.experiments.build.dataset import load_dataset
from fcf_jax.experiments.config.load import load_config


@pytest.fixture
def published(tmp_path):
    """NCF's three files of a toy set; returns the configuration with a file of negatives."""
    (tmp_path / "toy.train.rating").write_text("0\t3\t5\t10\n0\t4\t1\t11\n1\t3\t2\t12\n2\t5\t4\t9\n")
    (tmp_path / "toy.test.rating").write_text("0\t5\t5\t20\n1\t4\t3\t21\n2\t3\t3\t8\n")

    def configured(negatives):
        path = tmp_path / "toy.test.negative"
        path.write_text(negatives)
        parts = [f"data.{part}_path={tmp_path / f'toy.{part}.rating'}" for part in ("train", "test")]
        return load_config("published-split", [*parts, f"data.negatives_path={path}"])

    return configured


def test_negatives_go_with_the_test_set_that_they_are_of(published):
    dataset = load_dataset(published("(1,4)\t5\n(0,5)\t3\t4\n(2,3)\t4\n"))
    assert dataset.split.negatives.tolist() == [[0, 1], [2, -1], [1, -1]]  # items 3, 4, 5 are 0, 1, 2
    assert dataset.notes[-1] == (
        "3 test items, ranked in the catalogue and among 1 to 2 negatives: toy.test.negative"
    )


@pytest.mark.parametrize(
    ("negatives", "message"),
    [
        ("(1,4)\t5\n(0,5)\t3\n", "toy.test.negative: expected a line for each of 3 test items, got 2"),
        ("(1,4)\t5\n(0,3)\t5\n(2,3)\t4\n", "got user 0 and item 3 .* or set data.negatives_ids"),
    ],
)
def test_negatives_of_another_test_set_are_refused(published, negatives, message):
    with pytest.raises(ValueError, match=message):
        load_dataset(published(negatives))
