"""Dropouts: the sum over those that come back, rounds without anyone, and void rounds."""

from typing import Any

import jax
import numpy as np
import optax
import pytest
import references
from jax import numpy as jnp
from references import NUM_FACTORS, REGULARIZATION, relative_error
from small_data import MODEL

from fcf_jax.channel import (
    Pieces,
    chain,
    choose_formats,
    clip_and_noise,
    dropouts,
    dropouts_by_activity,
    fixed_point,
    void_below,
)
from fcf_jax.core.cohort_sum import cohort_sum
from fcf_jax.core.cohorts import gather_cohort
from fcf_jax.core.federation import federated_cf, run_rounds

KEY, NUM_USERS = jax.random.key(3), 13
SIZES: dict[str, Any] = {"num_items": 17, "num_factors": NUM_FACTORS}
BACK = np.array([0, 2, 3, 5, 8, 12])
LOST = np.isin(np.arange(NUM_USERS), BACK, invert=True).astype(float)  # probabilities of 0 and 1
FORMATS = choose_formats(Pieces(500.0, 500.0, 100.0, 1000.0), max_clients=NUM_USERS)
ADAM = optax.adam(0.1)


@pytest.fixture(scope="module")
def summed(small):
    """Sum the uploads of two runs side by side, each with a dropout probability for each user."""
    item_factors = jnp.asarray(small.item_factors, jnp.float32)

    @jax.jit
    @jax.vmap
    def of_runs(probabilities):
        channel = dropouts(probabilities)
        return cohort_sum(MODEL, item_factors, small.clients, channel=channel, key=KEY)[0]

    def of_both(*probabilities):
        sums = of_runs(jnp.stack([jnp.broadcast_to(one, NUM_USERS) for one in probabilities]))
        return [jax.tree.map(lambda leaf, run=run: leaf[run], sums) for run in range(2)]

    return of_both


def trained(small, channel, num_rounds=5):
    federation = federated_cf(MODEL, ADAM, channel=channel, **SIZES)
    start = federation.init(KEY)
    return start, *run_rounds(federation, KEY, start, small.clients, num_rounds=num_rounds)


def assert_unchanged(start, after):
    """The parameters and the optimizer's state, bit for bit; the links may count rounds."""
    np.testing.assert_array_equal(after.item_factors, start.item_factors)
    jax.tree.map(np.testing.assert_array_equal, after.optimizer_state, start.optimizer_state)
    assert int(after.round_index) == 5


def test_sum_over_those_that_come_back_matches_dense_reference(small, summed):
    y, c, p = small.item_factors, small.c[BACK], small.p[BACK]
    x = references.solve_users(y, c, p, regularization=REGULARIZATION)
    sums, all_sums = summed(LOST, 0.0)
    assert (int(sums.num_clients), int(all_sums.num_clients)) == (BACK.size, NUM_USERS)
    # float32, condition number about 1e3
    assert relative_error(sums.upload, references.cohort_sum(x, y, c, p)) <= 1e-5
    assert relative_error(sums.user_gram, references.user_gram(x)) <= 1e-5
    assert relative_error(sums.confidence_sum, np.sum(c - 1.0, axis=0)) <= 1e-6


def test_sum_in_fixed_point_equals_that_of_these_clients_alone(small):
    y, exact = jnp.asarray(small.item_factors, jnp.float32), fixed_point(FORMATS, max_clients=NUM_USERS)
    alone = gather_cohort(small.clients, jnp.asarray(BACK), row_capacity=32)
    both = jax.jit(lambda clients, channel: cohort_sum(MODEL, y, clients, channel=channel, key=KEY)[0])
    jax.tree.map(
        np.testing.assert_array_equal, both(small.clients, chain(dropouts(LOST), exact)), both(alone, exact)
    )


def test_share_that_drops_out_is_as_asked(summed):
    """Over 200 rounds of 13 clients: three standard deviations are 0.026."""
    many = jax.vmap(lambda key: _num_back(key, 0.3))(jax.random.split(KEY, 200))
    assert np.mean(many) / NUM_USERS == pytest.approx(0.7, abs=0.027)
    for sums, probability in zip(summed(0.3, 0.6), (0.3, 0.6), strict=True):
        assert int(sums.num_clients) == _num_back(KEY, probability)


def _num_back(key, probability):
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(NUM_USERS))
    return jnp.sum(jax.vmap(jax.random.uniform)(keys) >= probability)


def test_round_in_which_nobody_comes_back_changes_nothing(small):
    start, after, info = trained(small, dropouts(np.ones((3, NUM_USERS))))
    assert_unchanged(start, after)
    assert not np.asarray(info.num_clients).any()


def test_trace_decides_round_by_round_and_begins_anew(small):
    trace = np.stack([LOST, np.zeros(NUM_USERS), np.ones(NUM_USERS)])
    _, _, info = trained(small, dropouts(trace))
    np.testing.assert_array_equal(info.num_clients, [6, 13, 0, 6, 13])


def test_expected_cohort_stays_the_divisor_under_noise(small, summed):
    """dJ/dY of the first round, from the sum over those that came back."""
    noise = clip_and_noise(
        clip_norms=Pieces(1e4, 1e4, 1e4, 1e4), noise_multiplier=0.0, expected_cohort_size=float(NUM_USERS)
    )
    y, channel = jnp.asarray(small.item_factors, jnp.float32), chain(dropouts(LOST), noise)
    federation = federated_cf(MODEL, ADAM, channel=channel, **SIZES)
    _, info = run_rounds(federation, KEY, federation.init(KEY, y), small.clients, num_rounds=1)
    expected = -2.0 * summed(LOST, 0.0)[0].upload + 2.0 * REGULARIZATION * y
    assert float(info.gradient_norm[0]) == pytest.approx(float(jnp.linalg.norm(expected)), rel=1e-4)
    assert float(info.num_clients[0]) == NUM_USERS


def test_sums_of_too_few_clients_stay_closed(small):
    exact, six_of_them, all_of_them = fixed_point(FORMATS, max_clients=NUM_USERS), LOST, 0 * LOST
    start, after, info = trained(small, chain(dropouts(six_of_them), exact, void_below(7)))
    assert_unchanged(start, after)
    assert not np.asarray(info.num_clients).any()
    _, _, info = trained(small, chain(dropouts(all_of_them), exact, void_below(7)))
    np.testing.assert_array_equal(info.num_clients, NUM_USERS)


@pytest.mark.parametrize("mean", [0.0, 0.1, 0.5, 0.99, 1.0])
def test_activity_keeps_the_mean_and_favors_long_histories(mean):
    lengths = np.array([0, 1, 5, 5, 40, 1000, 100_000])
    chances = dropouts_by_activity(lengths, mean=mean)
    assert np.mean(chances) == pytest.approx(mean, abs=1e-12)
    assert np.all(np.diff(chances) <= 0) and np.all((chances >= 0) & (chances <= 1))
    if 0 < mean < 1:
        odds = (1 - chances) / chances / (lengths + 1)
        np.testing.assert_allclose(odds, odds[0], rtol=1e-6)


@pytest.mark.parametrize(("probability", "message"), [
    (1.5, r"in \[0, 1\], got 1.5"),
    (np.array([0.1, -0.2]), r"in \[0, 1\], got -0.2"),
    (np.array([0.1, np.nan]), r"in \[0, 1\], got nan"),
    (np.zeros((1, 1, 1)), "got 3 axes"),
])  # fmt: skip
def test_bad_probabilities_are_refused(probability, message):
    with pytest.raises(ValueError, match=message):
        dropouts(probability)
