"""Asynchronous rounds: their timetable against a slow simulation, and their steps against dense ones."""

from typing import Any

import jax
import numpy as np
import optax
import pytest
import references
from jax import numpy as jnp
from references import NUM_FACTORS, REGULARIZATION, relative_error
from small_data import MODEL

from fcf_jax.channel import Pieces, chain, choose_formats, dropouts, fixed_point, quantize_uploads
from fcf_jax.core.federation import federated_cf, run_rounds
from fcf_jax.core.sampling import draw_cohorts
from fcf_jax.parallel import Timetable, buffered_rounds, rows_of_waves, run_side_by_side, simulate

KEY, NUM_USERS, RATE = jax.random.key(3), 13, 1e-3
SGD, ROWS = optax.sgd(RATE), 32
SECONDS = np.random.default_rng(0).lognormal(size=NUM_USERS)
SIZES: dict[str, Any] = {"num_items": 17, "num_factors": NUM_FACTORS}
ASYNCHRONOUS: dict[str, Any] = {"buffer_size": 3, "concurrency": 5}
FORMATS = choose_formats(Pieces(500.0, 500.0, 100.0, 1000.0), max_clients=NUM_USERS)


@pytest.fixture(scope="module")
def timetable():
    return simulate(KEY, SECONDS, num_rounds=8, **ASYNCHRONOUS)


def slow_simulation(key, seconds, *, num_rounds, buffer_size, concurrency):
    """Who arrives when: look at all clients in flight for the next to arrive, again and again."""
    drawn = draw_cohorts(
        key, jnp.zeros((), int), num_rounds=100, num_users=len(seconds), cohort_size=buffer_size,
        sampling="shuffled",
    )  # fmt: skip
    waiting_list = np.asarray(drawn.client_ids).ravel().tolist()
    flying, done, now, step, used = [], [], 0.0, 0, []
    while step < num_rounds:
        while len(flying) < concurrency:
            user = waiting_list.pop(0)
            if user not in [one[1] for one in flying] and user not in used:
                flying.append((now + seconds[user], user, step))
                used.append(user)
        first = min(flying)
        flying.remove(first)
        now = first[0]
        done.append((first[1], step - first[2], now))
        if len(done) == (step + 1) * buffer_size:
            step, used = step + 1, []
    users, lags, times = (np.array(column).reshape(num_rounds, -1) for column in zip(*done, strict=True))
    return users, lags, times[:, -1]


@pytest.mark.parametrize("sizes", [
    {"buffer_size": 3, "concurrency": 5}, {"buffer_size": 1, "concurrency": 1},
    {"buffer_size": 6, "concurrency": 2}, {"buffer_size": 1, "concurrency": 12},
])  # fmt: skip
def test_timetable_matches_slow_simulation(sizes):
    found = simulate(KEY, SECONDS, num_rounds=8, **sizes)
    users, lags, times = slow_simulation(KEY, SECONDS, num_rounds=8, **sizes)
    np.testing.assert_array_equal(found.received, users)
    np.testing.assert_array_equal(found.lags, lags)
    np.testing.assert_allclose(found.seconds, times)


def test_every_upload_is_computed_once_and_waits_in_the_slot_of_its_step(timetable):
    """Follow the slots: what a step takes is what started, weighed for its lag."""
    held: dict[int, list] = {slot: [] for slot in range(timetable.num_slots)}
    for round_index in range(8):
        places = timetable.starts[round_index] < NUM_USERS
        assert places.any(axis=1).sum() == timetable.num_waves[round_index]
        starting = (timetable.starts, timetable.weights, timetable.slots)
        for user, weight, slot in zip(*(each[round_index][places] for each in starting), strict=True):
            held[slot].append((user, round_index, weight))
        taken = held.pop(timetable.step_slots[round_index])
        held[timetable.step_slots[round_index]] = []
        due = zip(timetable.received[round_index], timetable.lags[round_index], strict=True)
        assert sorted(one[:2] for one in taken) == sorted((user, round_index - lag) for user, lag in due)
        raw = {user: (1.0 + round_index - start) ** -0.5 for user, start, _ in taken}
        for user, _, weight in taken:
            assert weight == pytest.approx(3 * raw[user] / sum(raw.values()))
    assert max(timetable.lags.ravel()) >= 3 and timetable.num_slots <= 5


def test_more_rounds_only_lengthen_the_timetable(timetable):
    shorter = simulate(KEY, SECONDS, num_rounds=5, **ASYNCHRONOUS)
    for short, full in zip(shorter, timetable, strict=True):
        np.testing.assert_array_equal(short, full[:5])


def test_lost_uploads_are_replaced():
    found = simulate(KEY, SECONDS, num_rounds=200, dropout=0.5, **ASYNCHRONOUS)
    lost = found.num_lost.sum()
    assert lost / (lost + found.received.size) == pytest.approx(0.5, abs=0.06)  # 4 standard deviations
    computed = np.sum(found.starts < NUM_USERS)
    assert 0 <= computed - found.received.size <= 5  # those in flight at the end; what is lost costs nothing


def dense_steps(small, timetable):
    """Each client solves with the item factors that it received; the server takes weighted sums of three."""
    versions = [small.item_factors]
    for lags, users in zip(timetable.lags, timetable.received, strict=True):
        raw, latest, total = (1.0 + lags) ** -0.5, versions[-1], 0.0
        for user, lag, weight in zip(users, lags, 3 * raw / raw.sum(), strict=True):
            y, weights = versions[-1 - lag], (small.c[[user]], small.p[[user]])
            x = references.solve_users(y, *weights, regularization=REGULARIZATION)
            total = total + weight * references.cohort_sum(x, y, *weights)
        versions.append(latest - RATE * (-2 * NUM_USERS / 3 * total + 2 * REGULARIZATION * latest))
    return versions[-1]


def test_steps_match_dense_reference_with_the_item_factors_that_clients_received(small, timetable):
    """Two runs side by side, in two blocks: the sums that wait pass from one block to the other."""
    timetables = timetable, simulate(jax.random.key(5), SECONDS, num_rounds=8, **ASYNCHRONOUS)
    assert max(rows_of_waves(own, small.clients) for own in timetables) <= ROWS
    num_slots, start = max(own.num_slots for own in timetables), jnp.asarray(small.item_factors, jnp.float32)

    def make(own):
        federation = federated_cf(MODEL, SGD, cohort_size=3, **SIZES)
        return buffered_rounds(federation, own, num_slots=num_slots)

    both, keys = jax.tree.map(lambda *leaves: np.stack(leaves), *timetables), jnp.stack([KEY, KEY])
    states = jax.vmap(lambda own: make(own).init(KEY, start))(both)
    for block in range(2):
        states, infos = run_side_by_side(
            make, keys, both, small.clients, num_rounds=4, row_capacity=ROWS, at_a_time=2, states=states
        )
        np.testing.assert_array_equal(infos.client_ids, both.received[:, 4 * block : 4 * block + 4])
        np.testing.assert_array_equal(infos.num_clients, 3)
    for item_factors, own in zip(states.item_factors, timetables, strict=True):
        assert relative_error(item_factors, dense_steps(small, own)) <= 1e-4  # float32, eight steps


def test_limit_without_lags_recovers_synchronous_rounds(small):
    """Bit for bit, through the slots and the links of a channel, one of which sends row by row."""
    channel = chain(quantize_uploads(8), dropouts(0.2), fixed_point(FORMATS, max_clients=NUM_USERS))
    federation = federated_cf(MODEL, SGD, cohort_size=4, channel=channel, **SIZES)
    start = federation.init(KEY, jnp.asarray(small.item_factors, jnp.float32))
    state, info = run_rounds(federation, KEY, start, small.clients, num_rounds=3, row_capacity=ROWS)
    ids, zeros = np.asarray(info.client_ids), np.zeros(3, np.int32)
    at_once = Timetable(
        starts=ids[:, None], weights=np.ones((3, 1, 4), np.float32), slots=np.zeros((3, 1, 4), np.int32),
        num_waves=zeros + 1, step_slots=zeros, received=ids, lags=0 * ids, seconds=np.arange(3.0),
        num_lost=zeros,
    )  # fmt: skip
    asynchronous = buffered_rounds(federation, at_once)
    start = asynchronous.init(KEY, jnp.asarray(small.item_factors, jnp.float32))
    other, other_info = run_rounds(asynchronous, KEY, start, small.clients, num_rounds=3, row_capacity=ROWS)
    np.testing.assert_array_equal(other.item_factors, state.item_factors)
    jax.tree.map(np.testing.assert_array_equal, other_info, info)


@pytest.mark.parametrize(("changes", "message"), [
    ({"concurrency": 11}, "at least 14 users"),
    ({"buffer_size": 0}, "buffer_size of at least 1"),
    ({"dropout": 1.0}, "dropout of at least 0 and below 1"),
    ({"seconds": 0 * SECONDS}, "seconds above 0"),
])  # fmt: skip
def test_bad_arguments_are_refused(changes, message):
    arguments = {"seconds": SECONDS, "num_rounds": 2, **ASYNCHRONOUS, **changes}
    with pytest.raises(ValueError, match=message):
        simulate(KEY, **arguments)
