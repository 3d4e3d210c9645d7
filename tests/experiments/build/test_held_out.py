"""Held-out data: a training and a validation set, and nothing of the test set."""

import dataclasses

import numpy as np
import pytest

from fcf_jax.experiments.build.dataset import load_dataset
from fcf_jax.experiments.build.held_out import HeldOut, hold_out, load_held_out
from fcf_jax.experiments.config.checks import check
from fcf_jax.experiments.config.load import load_config, with_values
from fcf_jax.experiments.errors import ConfigError
from fcf_jax.experiments.tune.candidates import candidate_data, candidate_mesh


class Untouchable:
    def __getattribute__(self, name):
        raise AssertionError(f"the test set was asked for {name}")


def test_the_test_set_is_not_used():
    config = load_config(None, ["data.num_users=60", "data.num_items=30", "data.mean_history=8"])
    with_validation = with_values(config, {"data.validation_fraction": 0.1})
    dataset = load_dataset(with_validation)
    blind = dataset._replace(split=dataclasses.replace(dataset.split, test=Untouchable()))
    held_out = hold_out(blind, config.data, fraction=0.1)
    assert HeldOut._fields == ("train", "validation", "mean_rating", "notes", "fold_in", "negatives")
    assert held_out.negatives is None
    assert held_out.train is dataset.split.train and held_out.validation is dataset.split.validation


def test_users_held_out_whole_validate_from_histories_of_their_own():
    overrides = ["data.num_users=60", "data.num_items=30", "data.mean_history=8", "data.split=strong"]
    config = load_config(None, [*overrides, "data.test_users=10", "data.validation_users=20"])
    split, held_out = load_dataset(config).split, load_held_out(config)
    assert held_out.train.fingerprint() == split.train.fingerprint()
    assert held_out.validation.fingerprint() == split.validation.fingerprint()
    assert held_out.dataset.split.histories.fingerprint() == split.validation_fold_in.fingerprint()
    assert held_out.validation.num_users == 20
    assert set(held_out.validation.user_labels).isdisjoint(split.test.user_labels)


def test_held_out_and_training_are_the_training_set_of_a_run():
    config = load_config(None, ["data.num_users=60", "data.num_items=30", "data.mean_history=8"])
    of_run, held_out = load_dataset(config).split, load_held_out(config)
    together = held_out.train.to_scipy() + held_out.validation.to_scipy()
    assert (together != of_run.train.to_scipy()).nnz == 0
    assert together.multiply(of_run.test.to_scipy()).nnz == 0
    assert held_out.validation.num_interactions > 0


def test_held_out_items_are_ranked_among_the_given_negatives():
    config = load_config(None, ["data.num_users=60", "data.num_items=30", "data.mean_history=8"])
    dataset = load_dataset(with_values(config, {"data.validation_fraction": 0.1}))
    negatives = np.tile(np.arange(5, dtype=np.int32), (60, 1))
    given = dataset._replace(split=dataclasses.replace(dataset.split, negatives=negatives))
    held_out = hold_out(given, config.data, fraction=0.1)
    data = candidate_data(
        held_out.train, held_out.validation, candidate_mesh(1), negatives=held_out.negatives
    )
    assert data.validation.negatives is not None and data.validation.negatives.shape[-1] == 5
    config = load_config(
        None, ["data.negatives_path=a.negative", "data.split=leave_one_out", "data.path=a.csv"]
    )
    check(with_values(config, {"tuning.metric": "sampled_ndcg_at_10"}), "tune")
    with pytest.raises(ConfigError, match="unknown metric sampled_ndcg_at_10"):
        check(load_config(None, ["tuning.metric=sampled_ndcg_at_10"]), "tune")
