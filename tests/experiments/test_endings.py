"""Bad ends of a training, and the advice that fits them."""

import numpy as np
import pytest

from fcf_jax import cli
from fcf_jax.experiments.build.dataset import load_dataset
from fcf_jax.experiments.build.measuring import loss_of_scores
from fcf_jax.experiments.build.problem import resolve
from fcf_jax.experiments.config.load import load_config
from fcf_jax.experiments.endings import caution_of_als, caution_of_end, remedy_of_divergence
from fcf_jax.experiments.loop import Divergence
from fcf_jax.experiments.store.run_directory import SUMMARY

pytestmark = pytest.mark.usefixtures("all_undrawn")

SMALL = ["data.num_users=60", "data.num_items=30", "data.mean_history=8", "model.num_factors=4"]


def problem_of(*overrides):
    config = load_config(None, [*SMALL, *overrides])
    return resolve(config, load_dataset(config))


@pytest.mark.parametrize(
    ("overrides", "federated", "centralized", "losses", "expected"),
    [
        ((), 2.07, 1.0, [9.0, 5.0], "not converged: loss 2.07 x ALS's; raise federation.num_rounds"),
        (("model.alpha=1e5",), 2.07, 1.0, [9.0, 5.0], " or set data.strengths=log"),
        (("server.step=sgd",), 2.07, 1.0, [9.0, 5.0], " or set server.step=guarded_gram"),
        ((), 1.009, 1.0, [9.0, 5.0], None),
        ((), 1.0, None, [9.0, 1.5], "not converged: the loss fell by 33 % in the last round; raise "),
        ((), 1.0, None, [9.0, *[1.5] * 12], "not converged: the loss fell by 33 % in the last 2 rounds; "),
        ((), 1.0, None, [9.0, 1.001], None),
        ((), 1.0, None, [], None),  # of cohorts
        ((), 1e9, 1e9, [1e9, 1e9], "the model predicts nothing: its loss is that of factors of 0; lower "),
    ],
)
def test_end_calls_for_the_caution_that_fits(overrides, federated, centralized, losses, expected):
    caution = caution_of_end(problem_of(*overrides), federated, centralized, losses)
    assert (caution is None) == (expected is None)
    assert expected is None or expected in caution


def test_loss_of_scores_matches_dense_reference():
    problem = problem_of()
    strengths = problem.train.to_scipy().toarray()
    scores = np.linspace(0, 1, 30)
    expected = np.sum((1 + 4.0 * strengths) * ((strengths > 0) - scores) ** 2)
    assert loss_of_scores(problem.model, problem.train, scores) == pytest.approx(expected, rel=1e-6)


def test_als_at_its_cap_is_named():
    assert caution_of_als(999) is None
    assert "after 1000 sweeps" in caution_of_als(1000)


@pytest.mark.parametrize(
    ("overrides", "round_index", "expected"),
    [
        ((), 0, "model.init_scale"),
        ((), 3, "server.initial_damping"),
        (("model.regularization=0",), 3, "raise model.regularization"),
        (("model.alpha=1e5",), 3, "lower model.alpha or set data.strengths=log"),
        (("server.step=adam",), 3, "lower server.learning_rate"),
    ],
)
def test_remedy_of_divergence_fits_its_cause(overrides, round_index, expected):
    assert expected in remedy_of_divergence(problem_of(*overrides), Divergence(round_index, 1e9))


def test_run_that_learns_nothing_says_so_on_screen_and_in_its_summary(tmp_path, capsys):
    sets = [*SMALL, "model.regularization=1e12", "evaluation.baseline=false", "federation.num_rounds=4"]
    words = [word for one in sets for word in ("--set", one)]
    assert cli.main(["run", *words, "--out", str(tmp_path / "run")]) == 0
    (warning, *_) = SUMMARY.read(tmp_path / "run")["warnings"]
    assert warning.startswith("the model predicts nothing") and warning.endswith("(now 1e+12)")
    assert f"warning: {warning}" in capsys.readouterr().out


def test_ratings_beyond_float32_are_refused_with_their_place(tmp_path, capsys):
    (tmp_path / "stars.csv").write_text("user,item,rating\n" + "\n".join(f"u{n},i,3" for n in range(9)))
    with (tmp_path / "stars.csv").open("a") as file:
        file.write("\nu3,j,1e30\n")
    sets = ["--set", f"data.path={tmp_path / 'stars.csv'}", "--out", str(tmp_path / "run")]
    assert cli.main(["run", "explicit-ratings", *sets]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "got 1e+30 for user u3, item j; rescale them" in error
