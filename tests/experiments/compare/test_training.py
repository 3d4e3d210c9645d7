"""Training of a comparison."""

import pytest

from fcf_jax.experiments.build.dataset import load_dataset
from fcf_jax.experiments.build.problem import resolve
from fcf_jax.experiments.compare.curves import Curves
from fcf_jax.experiments.compare.training import _refuse_divergence, _Task
from fcf_jax.experiments.config.load import load_config
from fcf_jax.experiments.errors import DivergedError


def test_divergence_names_the_replicate_and_a_remedy():
    config, curves = load_config(None, ["data.num_users=60", "data.num_items=80"]), Curves()
    for done, losses in enumerate([[1.0, 1.0], [0.5, 30.0], [0.4, 40.0]]):
        curves.put("federated", "loss", done, losses)
    with pytest.raises(DivergedError, match=r"replicate 1 diverged in round 2.*raise server"):
        _refuse_divergence(_Task(None, resolve(config, load_dataset(config)), curves))
