import numpy as np
import pytest
from made_up_runs import run_of


def test_excess_loss_known_answers():
    run = run_of([30.0, 11.0, 10.1], sweeps=[30.0, 12.0], centralized={"loss": 10.0})
    np.testing.assert_allclose(run.excess_loss().values, [200.0, 10.0, 1.0])
    np.testing.assert_allclose(run.excess_loss("als_sweep").values, [200.0, 20.0, 0.0])
    np.testing.assert_array_equal(run.excess_loss().rounds, [0, 1, 2])
    alone = run_of([30.0, None, 20.0])
    np.testing.assert_allclose(alone.excess_loss().values, [50.0, np.nan, 0.0])
    np.testing.assert_allclose(alone.excess_loss(reference=10.0).values, [200.0, np.nan, 100.0])


def test_cohort_shows_exact_losses_and_not_its_estimates():
    cohort = {"federation": {"cohort_size": 5}}
    run = run_of(
        [99.0, 1.0, 11.0], centralized={"loss": 10.0}, config=cohort, evaluations=[(2, {"loss": 11.0})]
    )
    assert [values.tolist() for values in run.excess_loss()] == [[2.0], [pytest.approx(10.0)]]


def test_run_under_noise_shows_the_losses_of_its_evaluations():
    run = run_of([None, None, 11.0], evaluations=[(0, {"loss": 30.0}), (2, {"loss": 11.0})])
    assert [values.tolist() for values in run.losses()] == [[0.0, 2.0], [30.0, 11.0]]
