"""Side features: the clients' prior means, the sums for A, B from Y, against a dense float64 reference."""

from functools import partial

import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp
from references import ALPHA, NUM_FACTORS, REGULARIZATION, gradient, relative_error
from scipy.sparse import csr_matrix

from fcf_jax import optimizers
from fcf_jax.als import run_sweeps
from fcf_jax.channel.clip_and_noise import clip_and_noise
from fcf_jax.core import features
from fcf_jax.core.biases import biases
from fcf_jax.core.client import client_update
from fcf_jax.core.cohort_sum import cohort_sum, solve_clients
from fcf_jax.core.federation import federated_cf, run_rounds
from fcf_jax.core.item_major import item_major
from fcf_jax.core.kernels.choice import INTERPRETED
from fcf_jax.core.objective import for_items, implicit_feedback, loss, observe
from fcf_jax.core.packing import pack_clients, pack_items
from fcf_jax.core.records import ClientData, Model, Pieces

NUM_USERS, NUM_ITEMS, LAMBDA_F = 13, 17, 0.6
OPTIONS = {"row_width": 4, "chunk_slots": 32, "chunk_clients": 5}
KEY, STEP, SGD = jax.random.key(0), optimizers.guarded_gram(), optax.sgd(1.0)
RNG = np.random.default_rng(3)
F = RNG.normal(size=(NUM_USERS, 3)).astype(np.float32)
G = RNG.integers(0, 2, (NUM_ITEMS, 4)).astype(np.float32)
A = RNG.normal(size=(3, NUM_FACTORS))
SIZES = {"num_items": NUM_ITEMS, "num_factors": NUM_FACTORS}
WITH_BOTH = SIZES | {"item_features": G, "num_user_features": F.shape[1]}


def model_of(exponent=None, **numbers):
    weighting = implicit_feedback(alpha=ALPHA)
    model = Model(
        weighting, REGULARIZATION, regularization_exponent=exponent, feature_regularization=LAMBDA_F
    )
    return model._replace(**numbers)


@pytest.fixture(scope="module")
def packed(small):
    """Return clients and items with features."""
    return (
        pack_clients(small.interactions, features=F, **OPTIONS),
        pack_items(small.interactions, features=G, **OPTIONS),
    )


def one_round(model, y, clients, user_map):
    """Take a step of size 1 along the gradient, with this A before it."""
    federation = federated_cf(model, SGD, **WITH_BOTH)
    state = federation.init(KEY, y)
    state = state._replace(features=state.features._replace(user_map=user_map))
    return run_rounds(federation, KEY, state, clients, num_rounds=1)


class Dense:
    """The objective in dense float64, for given Y and A."""

    def __init__(self, small, y, a, exponent=None):
        self.y, self.a, self.c, self.p = (
            np.asarray(y, np.float64),
            np.asarray(a, np.float64),
            small.c,
            small.p,
        )
        seen, nu = small.strengths > 0, exponent or 0.0
        self.of_users = REGULARIZATION * (seen.sum(1) + NUM_ITEMS) ** nu
        self.of_items = REGULARIZATION * (seen.sum(0) + NUM_USERS) ** nu
        self.x = solved(self.y, self.c, self.p, self.of_users, F @ self.a)
        self.b = best_map(G, self.of_items, self.y)

    def value(self):
        errors = np.sum(self.c * (self.p - self.x @ self.y.T) ** 2)
        users = np.sum(self.of_users * np.sum((self.x - F @ self.a) ** 2, axis=1))
        items = np.sum(self.of_items * np.sum((self.y - G @ self.b) ** 2, axis=1))
        return errors + users + items + LAMBDA_F * (np.sum(self.a**2) + np.sum(self.b**2))

    def gradient(self):
        of_errors = -2 * (self.c * (self.p - self.x @ self.y.T)).T @ self.x
        return of_errors + 2 * self.of_items[:, None] * (self.y - G @ self.b)

    def next_a(self):
        return best_map(F, self.of_users, self.x)


def solved(y, c, p, ridges, means):
    rows = zip(c, p, ridges, means, strict=True)
    eye = np.eye(y.shape[1])
    return np.stack([np.linalg.solve((y.T * c) @ y + r * eye, y.T @ (c * p) + r * m) for c, p, r, m in rows])


def best_map(features, weights, factors):
    weighted = features.T.astype(np.float64) * weights
    return np.linalg.solve(weighted @ features + LAMBDA_F * np.eye(features.shape[1]), weighted @ factors)


@pytest.mark.parametrize("exponent", [None, 0.7])
def test_round_matches_dense_reference(exponent, small, packed):
    model, y = model_of(exponent), jnp.asarray(small.item_factors, jnp.float32)
    dense = Dense(small, small.item_factors, A, exponent)
    clients, _ = packed
    user_map = jnp.asarray(A, jnp.float32)
    sums, error = jax.jit(lambda: cohort_sum(model, y, clients, user_map=user_map))()
    assert relative_error(sums.user_gram, dense.x.T @ dense.x) <= 1e-5 and float(error) <= 1e-4
    weighted = F.T * dense.of_users
    assert relative_error(sums.features.gram, weighted @ F) <= 1e-5
    assert relative_error(sums.features.cross, weighted @ dense.x) <= 1e-5
    after, info = one_round(model, y, clients, user_map)
    np.testing.assert_allclose(info.loss[0], dense.value(), rtol=1e-5)
    assert relative_error(y - after.item_factors, dense.gradient()) <= 2e-5
    assert relative_error(after.features.user_map, dense.next_a()) <= 2e-5
    of_items = for_items(model, clients.item_counts, NUM_USERS)
    assert relative_error(features.fit_map(of_items, y, G), dense.b) <= 1e-5


def test_dense_gradient_is_that_of_the_dense_value_by_finite_differences(small):
    y, step = small.item_factors, 1e-6
    gradient = Dense(small, y, A).gradient()
    for item, factor in [(0, 0), (5, 3), (16, 4)]:
        shift = np.zeros_like(y)
        shift[item, factor] = step
        rise = Dense(small, y + shift, A).value() - Dense(small, y - shift, A).value()
        np.testing.assert_allclose(gradient[item, factor], rise / (2 * step), rtol=1e-6)


def test_one_client_alone_equals_its_place_in_a_batch(small):
    """A user with a long history, and one without any."""
    model, y = model_of(0.7), jnp.asarray(small.item_factors, jnp.float32)

    @jax.jit
    def solved_alone(strengths, prior):
        ids = jnp.arange(NUM_ITEMS, dtype=jnp.int32)
        history = observe(model, ClientData(ids, strengths, strengths > 0))
        update, info = client_update(model, y, history, prior=prior)
        value, slope = jax.value_and_grad(lambda x: loss(model, y, x, history, prior))(update.user_factor)
        return update.user_factor, info.loss, value, jnp.linalg.norm(slope)

    dense = Dense(small, small.item_factors, A, 0.7)
    for user in (5, 3):
        prior = features.prior_factors(F[user], A.astype(np.float32))
        factor, found, value, slope = solved_alone(small.strengths[user].astype(np.float32), prior)
        assert relative_error(factor, dense.x[user]) <= 1e-5
        np.testing.assert_allclose(found, value, rtol=1e-5)
        assert float(slope) <= 1e-3 * float(value)  # the factor is the minimum of the loss


@pytest.mark.parametrize("exponent", [None, 0.7])
def test_sweeps_of_als_match_dense_reference(exponent, small, packed, float64):
    y, a, losses = small.item_factors, np.zeros((3, NUM_FACTORS)), []
    found, info = run_sweeps(model_of(exponent), jnp.asarray(y), *packed, num_sweeps=2)
    for _ in range(2):
        dense = Dense(small, y, a, exponent)
        losses.append(dense.value())
        y = solved(dense.x, small.c.T, small.p.T, dense.of_items, G @ dense.b)
        a = dense.next_a()
    assert relative_error(found, y) <= 1e-9 and relative_error(info.user_map[-1], a) <= 1e-9
    np.testing.assert_allclose(info.loss, losses, rtol=1e-9)


def test_fixed_point_of_irspack_is_one_of_als(small, packed, float64):
    irspack = pytest.importorskip("irspack")
    peer = irspack.IALSRecommender(
        csr_matrix(ALPHA * small.strengths), n_components=NUM_FACTORS, alpha0=1.0, reg=REGULARIZATION, nu=0.0,
        loss_type="ORIGINAL", solver_type="CHOLESKY", train_epochs=1000, n_threads=1,
        user_features=F, item_features=G, lambda_user_feature=LAMBDA_F, lambda_item_feature=LAMBDA_F,
    ).learn()  # fmt: skip
    found = peer.trainer.core_trainer
    y, a = jnp.asarray(found.item, jnp.float64), jnp.asarray(found.user_feature_weight, jnp.float64)
    after, info = run_sweeps(model_of(), y, *packed, num_sweeps=2, user_map=a)
    assert relative_error(after, y) <= 1e-3  # of float32, and of a flat objective
    np.testing.assert_allclose(info.loss, Dense(small, y, a).value(), rtol=1e-4)


@pytest.fixture(scope="module")
def converged(small, packed):
    """Return a federation's state and info after 150 rounds, in float64."""
    with jax.enable_x64(True):
        federation = federated_cf(model_of(), STEP, **WITH_BOTH)
        state = federation.init(KEY, jnp.asarray(small.item_factors))
        return run_rounds(federation, KEY, state, packed[0], num_rounds=150)


def test_federation_ends_at_a_fixed_point_of_als(small, packed, converged, float64):
    state, info = converged
    found, report = run_sweeps(
        model_of(), state.item_factors, *packed, num_sweeps=2, user_map=state.features.user_map
    )
    np.testing.assert_allclose(report.loss, info.loss[-1], rtol=1e-9)
    assert relative_error(found, state.item_factors) <= 1e-5
    dense = Dense(small, state.item_factors, state.features.user_map)
    np.testing.assert_allclose(info.loss[-1], dense.value(), rtol=1e-9)
    assert relative_error(dense.next_a(), state.features.user_map) <= 1e-5


def test_a_round_and_a_sweep_agree_on_the_loss_with_biases(small, packed, float64):
    """Padding clients, who have a constant coordinate too, count in neither."""
    model, y = model_of(biases=biases()), jnp.asarray(small.item_factors).at[:, -1].set(1.0)
    user_map = jnp.asarray(A).at[:, -2].set(0.0)
    federation = federated_cf(model, SGD, **WITH_BOTH | {"num_factors": NUM_FACTORS - 2})
    state = federation.init(KEY, y)
    state = state._replace(features=state.features._replace(user_map=user_map))
    _, info = run_rounds(federation, KEY, state, packed[0], num_rounds=1)
    _, report = run_sweeps(model, y, *packed, num_sweeps=1, user_map=user_map)
    np.testing.assert_allclose(info.loss, report.loss, rtol=1e-9)


def test_huge_feature_regularization_recovers_the_model_without_features(small, packed):
    y, nothing = jnp.asarray(small.item_factors, jnp.float32), jnp.zeros((3, NUM_FACTORS))
    after, _ = one_round(model_of(feature_regularization=1e12), y, packed[0], nothing)
    expected = gradient(small.item_factors, small.c, small.p, regularization=REGULARIZATION)
    assert relative_error(y - after.item_factors, expected) <= 2e-5
    assert float(jnp.max(jnp.abs(after.features.user_map))) <= 1e-9


def test_a_round_that_is_not_finite_leaves_the_map_as_it_was():
    state = features.first_feature_state(3, jnp.ones((NUM_ITEMS, NUM_FACTORS)))
    spoiled = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), state.sums)
    after = features.next_feature_state(model_of(), state, spoiled, jnp.ones(()))
    jax.tree.map(np.testing.assert_array_equal, after, state)


def test_cold_users_and_items_take_their_factors_from_their_features(small, packed):
    user_map, y = A.astype(np.float32), jnp.asarray(small.item_factors, jnp.float32)
    counts = np.asarray(small.clients.item_counts).copy()
    counts[[2, 9]] = 0
    trained = features.seen_features(G, counts)
    assert not trained[[2, 9]].any() and (trained[counts > 0] == G[counts > 0]).all()
    item_map = features.fit_map(model_of(), y, trained)
    filled = np.asarray(features.replace_cold_items(model_of(), y, G, item_map, counts))
    np.testing.assert_allclose(filled[[2, 9]], G[[2, 9]] @ np.asarray(item_map), rtol=1e-5)
    np.testing.assert_array_equal(filled[counts > 0], y[counts > 0])
    np.testing.assert_allclose(features.prior_factors(F[0], user_map), A.T @ F[0], rtol=1e-5)


def test_gradient_through_rounds_matches_finite_difference(small, packed, float64):
    y = jnp.asarray(small.item_factors, jnp.float64)

    @jax.jit
    def number(numbers):
        model = model_of(regularization=numbers[0], feature_regularization=numbers[1])
        federation = federated_cf(model, optax.sgd(numbers[2]), **WITH_BOTH)
        state, info = run_rounds(federation, KEY, federation.init(KEY, y), packed[0], num_rounds=2)
        return jnp.sum(jnp.sin(state.item_factors)) + 0.01 * info.loss[-1]

    numbers, step = np.array([REGULARIZATION, LAMBDA_F, 1e-3]), 1e-6
    slopes = jax.jit(jax.grad(number))(numbers)
    for place, slope in enumerate(slopes):
        shift = step * np.eye(3)[place]
        expected = (number(numbers + shift) - number(numbers - shift)) / (2 * step)
        np.testing.assert_allclose(slope, expected, rtol=1e-5)


NOISE = clip_and_noise(
    clip_norms=Pieces(1.0, 1.0, 1.0, 1.0), noise_multiplier=1.0, expected_cohort_size=NUM_USERS
)
REFUSED = {
    "noise": (lambda small, packed: federated_cf(model_of(), STEP, channel=NOISE, **WITH_BOTH), "no channel"),
    "features of other users": (
        lambda small, packed: pack_clients(small.interactions, features=F[:-1], **OPTIONS),
        r"\[13, features\]",
    ),
    "gaps": (
        lambda small, packed: pack_items(small.interactions, features=np.where(G > 0, np.nan, G)),
        "finite features",
    ),
    "items of another catalogue": (
        lambda small, packed: federated_cf(model_of(), STEP, item_features=G[1:], **SIZES),
        "item_features of shape",
    ),
    "clients without their features": (
        lambda small, packed: run_rounds(
            federated_cf(model_of(), STEP, **WITH_BOTH), KEY,
            federated_cf(model_of(), STEP, **WITH_BOTH).init(KEY), small.clients, num_rounds=1,
        ),
        "clients with 3 features.*got 0",
    ),
    "a map that is missing": (
        lambda small, packed: solve_clients(model_of(), jnp.ones((NUM_ITEMS, 2)), packed[0]),
        "clients with 0 features.*got 3",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(case, small, packed):
    call, expected = REFUSED[case]
    with pytest.raises(ValueError, match=expected):
        call(small, packed)


def test_item_features_alone_may_have_noise(small):
    federation = federated_cf(model_of(), STEP, channel=NOISE, item_features=G, **SIZES)
    _, info = run_rounds(federation, KEY, federation.init(KEY), small.clients, num_rounds=1)
    assert np.isfinite(info.loss[0])


def test_kernels_leave_clients_with_features_to_xla(small, packed):
    y, histories = jnp.asarray(small.item_factors, jnp.float32), item_major(small.interactions)
    user_map = jnp.asarray(A, jnp.float32)
    with INTERPRETED(True):
        plain, with_features = (
            str(
                jax.make_jaxpr(partial(cohort_sum, model_of()))(y, clients._replace(items=histories), **given)
            )
            for clients, given in ((small.clients, {}), (packed[0], {"user_map": user_map}))
        )
    assert "pallas_call" in plain and "pallas_call" not in with_features


def test_running_sums_shrink_towards_the_prior_of_the_items(small, float64):
    """In a first round of all clients, at a rate of 1, the step is -g (2 (kappa S + lambda I))^-1."""
    y, step = jnp.asarray(small.item_factors), optimizers.running_sums(1.0, confidence_factor=3.0)
    federation = federated_cf(model_of(), step, item_features=G, **SIZES)
    state, _ = run_rounds(federation, KEY, federation.init(KEY, y), small.clients, num_rounds=1)
    dense = Dense(small, y, np.zeros_like(A))
    kappa = 1.0 + 3.0 * np.sum(small.c - 1.0, axis=0) / NUM_USERS
    hessians = 2 * (kappa[:, None, None] * dense.x.T @ dense.x + REGULARIZATION * np.eye(NUM_FACTORS))
    expected = -np.linalg.solve(hessians, dense.gradient()[:, :, None])[:, :, 0]
    assert relative_error(state.item_factors - y, expected) <= 1e-9
