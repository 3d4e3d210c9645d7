"""Training of a comparison."""

import numpy as np
import pytest

from fcf_jax.core.records import ServerState
from fcf_jax.experiments.build.dataset import load_dataset
from fcf_jax.experiments.build.problem import resolve
from fcf_jax.experiments.compare.curves import Curves
from fcf_jax.experiments.compare.replicates import States
from fcf_jax.experiments.compare.training import _has_rounds_left, _refuse_divergence, _Task, have_settled
from fcf_jax.experiments.config.load import load_config
from fcf_jax.experiments.errors import DivergedError
from fcf_jax.experiments.loop import Learned


def test_divergence_names_the_replicate_and_a_remedy():
    config, curves = load_config(None, ["data.num_users=60", "data.num_items=80"]), Curves()
    for done, losses in enumerate([[1.0, 1.0], [0.5, 30.0], [0.4, 40.0]]):
        curves.put("federated", "loss", done, losses)
    with pytest.raises(DivergedError, match=r"replicate 1 diverged in round 2.*raise server"):
        _refuse_divergence(_Task(None, resolve(config, load_dataset(config)), curves))


def test_losses_settle_when_the_best_falls_by_less_than_a_hundred_thousandth_a_round():
    falling = 1 + np.exp(-np.arange(30.0))[:, None] * [1.0, 100.0]
    assert have_settled(falling)
    assert not have_settled(falling[:18])  # of the second replicate
    assert not have_settled(falling[:10])
    falling[25] *= 2  # taken back in the next round
    assert have_settled(falling)
    assert not have_settled(np.linspace(2, 1, 40)[:, None])


@pytest.mark.parametrize(
    ("override", "goes_on"),
    [
        ("comparison.max_rounds=40", True),
        ("comparison.max_rounds=20", False),
        ("federation.cohort_size=9", False),  # losses are estimates
        ("server.decay=cosine", False),  # the schedule ends with the rounds asked for
    ],
)
def test_rounds_go_on_while_an_exact_loss_falls(override, goes_on):
    step = ["server.step=adam"] if "=" in override and "max" not in override else []
    small = ["data.num_users=60", "data.num_items=80", "federation.num_rounds=20", *step, override]
    config, curves = load_config(None, small), Curves()
    task = _Task(None, resolve(config, load_dataset(config)), curves)
    for done, loss in enumerate(np.linspace(2, 1, 20)):
        assert _has_rounds_left(task, states_after(done), done)
        curves.put("federated", "loss", done, [loss])
    assert _has_rounds_left(task, states_after(20), 20) == goes_on
    assert not _has_rounds_left(task, states_after(20), 25)  # ALS went on alone
    for done in range(20, 35):
        curves.put("federated", "loss", done, [1.0])
    assert not _has_rounds_left(task, states_after(35), 35)


def states_after(num_rounds):
    return States(
        ServerState(np.zeros((2, 3, 1)), (), np.full(2, num_rounds)), Learned(np.zeros((2, 3, 1)), None)
    )
