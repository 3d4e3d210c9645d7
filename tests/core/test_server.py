"""One server step."""

import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp
from references import ALPHA, NUM_FACTORS, REGULARIZATION, objective, relative_error, sgd_round, solve_users

from fcf_jax.core.federation import federated_cf, run_rounds
from fcf_jax.core.records import CohortSum
from fcf_jax.core.server import draw_item_factors, server_init, server_update
from fcf_jax.core.weighting import implicit_feedback


@pytest.mark.parametrize("cohort_size", [None, 4])
def test_sgd_round_matches_dense_reference(small, cohort_size):
    optimizer = optax.sgd(1e-3)
    federation = federated_cf(
        optimizer, implicit_feedback(alpha=ALPHA), num_items=17, num_factors=NUM_FACTORS,
        regularization=REGULARIZATION, cohort_size=cohort_size,
    )  # fmt: skip
    y = small.item_factors
    state = server_init(jnp.asarray(y, jnp.float32), optimizer)
    state, info = run_rounds(federation, jax.random.key(2), state, small.clients, num_rounds=1)
    cohort = np.asarray(info.client_ids[0])
    step = {"learning_rate": 1e-3, "regularization": REGULARIZATION}
    expected = sgd_round(y, small.c, small.p, **step, cohort=cohort)
    assert (
        relative_error(state.item_factors - y, expected - y) <= 2e-5
    )  # float32; Y rounds at 1e-7 of a 1e-2 step
    assert int(info.num_clients[0]) == (cohort_size or 13) and int(state.round_index) == 1
    if cohort_size is None:
        x = solve_users(y, small.c, small.p, regularization=REGULARIZATION)
        dense = objective(x, y, small.c, small.p, regularization=REGULARIZATION)
        np.testing.assert_allclose(info.loss[0], dense, rtol=1e-5)  # float32


def test_limit_nobody_took_part_leaves_everything():
    optimizer = optax.adam(0.1)
    state = server_init(jnp.ones((3, 2)), optimizer)
    zeros = jnp.zeros
    nothing = CohortSum(zeros((3, 2)), zeros((2, 2)), zeros(3), zeros(()), *[jnp.zeros((), jnp.int32)] * 2)
    after, _ = server_update(state, nothing, optimizer, num_users=5, regularization=1.0)
    assert int(after.round_index) == 1
    jax.tree.map(np.testing.assert_array_equal, after._replace(round_index=state.round_index), state)


def test_start_is_a_pure_function_of_the_key_with_the_asked_scale():
    sizes = {"num_items": 400, "num_factors": 5}
    start = draw_item_factors(jax.random.key(0), **sizes, init_scale=0.3)
    np.testing.assert_array_equal(start, draw_item_factors(jax.random.key(0), **sizes, init_scale=0.3))
    np.testing.assert_allclose(np.std(start), 0.3, rtol=0.1)  # 2000 draws: standard error 1.6 %
