"""The virtual clock: times of devices and rounds, over-selection and deadlines."""

import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp
from references import NUM_FACTORS
from small_data import MODEL

from fcf_jax.channel import (
    Devices,
    client_seconds,
    devices_of_classes,
    draw_devices,
    first_to_arrive,
    round_seconds,
)
from fcf_jax.core.federation import federated_cf, run_rounds
from fcf_jax.core.sampling import draw_cohorts

KEY, NUM_USERS, SGD = jax.random.key(3), 13, optax.sgd(1e-3)
SECONDS = np.array([5.0, 1, 9, 3, 7, 2, 8, 4, 6, 13, 10, 12, 11])


def drawn(sampling, *, cohort_size=4, num_rounds=6, num_users=NUM_USERS):
    cohorts = draw_cohorts(
        KEY,
        jnp.zeros((), int),
        num_rounds=num_rounds,
        num_users=num_users,
        cohort_size=cohort_size,
        sampling=sampling,
    )
    return np.asarray(cohorts.client_ids)


def test_known_answer_of_a_clients_time():
    devices = Devices(speeds=np.array([1.0, 0.5]), bandwidths=np.array([100.0, 1000.0]))
    times = client_seconds(
        devices, np.array([20, 0]), bytes_up=np.array([300.0, 500.0]), bytes_down=200,
        base_seconds=2.0, seconds_per_interaction=0.1,
    )  # fmt: skip
    np.testing.assert_allclose(times, [2.0 + 20 * 0.1 + 5.0, 2.0 / 0.5 + 0.7])


def test_drawn_devices_have_the_median_and_spread_asked_for():
    devices = draw_devices(KEY, 4000, bandwidth=1e6, spread=0.5)
    for numbers, median in ((devices.speeds, 1.0), (devices.bandwidths, 1e6)):
        logs = np.log(numbers / median)
        assert abs(np.median(logs)) < 0.04 and np.std(logs) == pytest.approx(0.5, abs=0.02)  # 4 deviations
    fewer = draw_devices(KEY, 10, bandwidth=1e6, spread=0.5)
    np.testing.assert_allclose(fewer.speeds, devices.speeds[:10])  # whoever else there is
    np.testing.assert_array_equal(draw_devices(KEY, 3, bandwidth=5.0, spread=0.0).bandwidths, 5.0)


def test_classes_have_their_shares():
    devices = devices_of_classes(KEY, 4000, shares=[1, 3], speeds=[0.1, 2.0], bandwidths=[1e5, 1e7])
    is_slow = devices.speeds == 0.1
    assert np.mean(is_slow) == pytest.approx(0.25, abs=0.03)
    np.testing.assert_array_equal(devices.bandwidths, np.where(is_slow, 1e5, 1e7))


@pytest.mark.parametrize("sampling", ["shuffled", "independent"])
def test_over_selection_keeps_the_first_of_those_drawn(sampling):
    kept, all_drawn = (
        drawn(first_to_arrive(SECONDS, over_selection=1.5, sampling=sampling)),
        drawn(sampling, cohort_size=6),
    )
    for few, many in zip(kept, all_drawn, strict=True):
        assert few.tolist() == sorted(many, key=lambda user: SECONDS[user])[:4]


def test_limit_without_over_selection_and_deadline_recovers_the_sampling():
    np.testing.assert_array_equal(drawn(first_to_arrive(SECONDS)), drawn("shuffled"))


def test_deadline_leaves_late_clients_out_and_ends_the_round():
    plain, timed = drawn("shuffled"), drawn(first_to_arrive(SECONDS, deadline=9.5))
    np.testing.assert_array_equal(timed, np.where(SECONDS[plain] > 9.5, NUM_USERS, plain))
    longest = SECONDS[plain].max(axis=1)
    np.testing.assert_allclose(round_seconds(SECONDS, plain), longest)
    assert (longest > 9.5).any() and (longest <= 9.5).any()
    np.testing.assert_allclose(round_seconds(SECONDS, timed, deadline=9.5), np.minimum(longest, 9.5))


def test_rounds_count_those_that_arrive_and_another_deadline_compiles_nothing(small, num_compiled):
    def run(deadline):
        federation = federated_cf(
            MODEL, SGD, cohort_size=6, sampling=first_to_arrive(SECONDS, deadline=deadline),
            num_items=17, num_factors=NUM_FACTORS,
        )  # fmt: skip
        state = federation.init(KEY)
        return run_rounds(federation, KEY, state, small.clients, num_rounds=2, row_capacity=32)[1]

    run(9.5)
    before = num_compiled()
    info = run(6.5)
    assert num_compiled() == before
    np.testing.assert_array_equal(info.num_clients, np.sum(np.asarray(info.client_ids) < NUM_USERS, axis=1))
    assert 0 < int(info.num_clients.sum()) < 12


@pytest.mark.parametrize(("build", "message"), [
    (lambda: draw_devices(KEY, 2, bandwidth=0.0, spread=1.0), "bandwidth above 0"),
    (lambda: draw_devices(KEY, 2, bandwidth=1.0, spread=-1.0), "spread of at least 0"),
    (lambda: devices_of_classes(KEY, 2, shares=[1.0], speeds=[1.0, 2.0], bandwidths=[1.0]), "same number"),
    (lambda: devices_of_classes(KEY, 2, shares=[1.0], speeds=[0.0], bandwidths=[1.0]), "speeds above 0"),
    (lambda: first_to_arrive(SECONDS, over_selection=0.5), "over_selection of at least 1"),
    (lambda: first_to_arrive(SECONDS, sampling="poisson"), "got 'poisson'"),
    (lambda: drawn(first_to_arrive(SECONDS, over_selection=4.0)), "at most 13 users to draw, got 16"),
])  # fmt: skip
def test_bad_arguments_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
