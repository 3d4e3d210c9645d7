"""Item factors that a run starts from: read from a run or a saved estimator, matched by label."""

import re
from pathlib import Path

import numpy as np
import pytest

from fcf_jax.core.biases import biases
from fcf_jax.experiments.build.start import start_from
from fcf_jax.experiments.config.load import load_config
from fcf_jax.experiments.errors import ConfigError
from fcf_jax.experiments.store.run_directory import CONFIG, write_item_factors
from fcf_jax.recommender import FederatedCollaborativeFilter

FACTORS = np.arange(6, dtype=np.float32).reshape(3, 2)
DRAWN = np.full((3, 2), -1, np.float32)


@pytest.fixture(params=["run", "saved"])
def trained(request, tmp_path):
    labels = np.array([10, 20, 30])
    if request.param == "run":
        CONFIG.write(tmp_path, load_config().to_dict())
        write_item_factors(tmp_path, FACTORS, labels, mean_rating=0.0)
        return str(tmp_path)
    FederatedCollaborativeFilter().with_item_factors(FACTORS, labels).save(tmp_path / "saved.npz")
    return str(tmp_path / "saved.npz")


def test_items_are_matched_by_label_and_others_drawn(trained):
    found = start_from(trained, DRAWN, np.array(["30", "new", "10"]))
    assert found.tolist() == [[4, 5], [-1, -1], [0, 1]]


@pytest.mark.parametrize(
    ("drawn", "labels", "message"),
    [
        (
            np.zeros((3, 5), np.float32),
            None,
            "expected item factors of shape (items, 5) to start from, got (3, 2)",
        ),
        (
            DRAWN,
            np.array(["a", "b", "c"]),
            "expected items in common with those to start from, got ['a', 'b', 'c",
        ),
    ],
)
def test_a_start_that_does_not_fit_names_the_key(drawn, labels, message, trained):
    with pytest.raises(ConfigError, match=re.escape(f"server.initial_item_factors: {message}")):
        start_from(trained, drawn, labels)


def test_a_start_that_is_not_there_names_the_key(tmp_path):
    with pytest.raises(
        ConfigError, match=r"server\.initial_item_factors: .*nowhere: expected a run directory"
    ):
        start_from(str(tmp_path / "nowhere"), DRAWN, None)


def test_a_relative_path_holds_wherever_the_run_is_resumed():
    config = load_config(None, ["server.initial_item_factors=runs/first"])
    assert config.server.initial_item_factors == str(Path("runs/first").absolute())


def test_factors_without_biases_are_no_start_of_a_model_with_them(trained):
    with pytest.raises(ConfigError, match=r"server\.initial_item_factors: .* set model\.biases = false"):
        start_from(trained, DRAWN, None, biases=biases())
