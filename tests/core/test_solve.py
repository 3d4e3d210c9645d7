"""The exact user factor, against dense float64."""

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax import numpy as jnp
from references import relative_error, solve_user, upload, user_loss

from fcf_jax.core.equations import owned_by
from fcf_jax.core.objective import gram, implicit_feedback, item_gradient, loss
from fcf_jax.core.records import Model
from fcf_jax.core.solve import shared_part, solve_rows, solve_user_factor

solve = jax.jit(solve_user_factor)
loss_jit, gradient_jit = jax.jit(loss), jax.jit(item_gradient)
NUM_ITEMS, NUM_FACTORS, SLOTS = 60, 6, 20
WEIGHTING = implicit_feedback(alpha=1.0)  # of observations that are weighted already
MODEL = Model(WEIGHTING, regularization=1.0)


def one_user(seed, history, largest_gain, unobserved_weight):
    rng = np.random.default_rng(seed)
    ids = rng.choice(NUM_ITEMS, history, replace=False)
    c, p = np.full(NUM_ITEMS, unobserved_weight), np.zeros(NUM_ITEMS)
    c[ids] = np.float32(1.0 + rng.uniform(0, largest_gain, history))  # what float32 can hold, for both sides
    p[ids] = np.float32(rng.normal(1.0, 1.0, history))
    item_factors = rng.normal(size=(NUM_ITEMS, NUM_FACTORS)).astype(np.float32).astype(np.float64)
    return item_factors, ids, c, p


@pytest.mark.parametrize(("dtype", "rtol"), [
    (np.float32, 1e-5),  # condition below 1e3 after scaling, and one refinement
    (np.float64, 1e-9),  # the same, in float64: far from rounding; the reference's own error is 1e-13
])  # fmt: skip
@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 10**6),
    history=st.integers(1, SLOTS),
    gain=st.sampled_from([0.0, 1.0, 100.0]),
    w0=st.sampled_from([0.0, 0.1, 1.0, 2.0]),
)
def test_solve_loss_and_gradient_match_dense_reference(dtype, rtol, seed, history, gain, w0, observed):
    item_factors, ids, c, p = one_user(seed, history, gain, w0)
    with jax.enable_x64(dtype == np.float64):
        y = jnp.asarray(item_factors, dtype)
        observations = observed(ids, c[ids], p[ids], slots=SLOTS, dtype=dtype)
        # lambda 1: with w0 = 0 and a short history nothing else bounds the condition
        model = Model(WEIGHTING, 1.0, w0)
        x = solve(model, y, observations)
        assert x.dtype == dtype
        expected = solve_user(item_factors, c, p, regularization=1.0)
        assert relative_error(x, expected) <= rtol
        x64 = np.asarray(x, np.float64)
        # both relative to the terms that cancel, which p - s does where it is small
        value = loss_jit(model, y, x, observations)
        dense = user_loss(item_factors, x64, c, p, regularization=1.0)
        assert abs(float(value) - dense) <= rtol * (dense + np.sum(c * p**2))
        gradient = gradient_jit(model, y, x, observations)
        dense = -2 * upload(item_factors, x64, c, p)
        terms = np.linalg.norm(c * (np.abs(p) + np.abs(item_factors @ x64))) * np.linalg.norm(x64)
        assert np.linalg.norm(np.asarray(gradient, np.float64) - dense) <= rtol * 2 * terms


@pytest.fixture(scope="module")
def catalogues():
    """Random item factors, and some with a decaying spectrum like trained ones; [items, 25]."""
    rng = np.random.default_rng(1)
    random = rng.normal(size=(1200, 25))
    basis = np.linalg.qr(rng.normal(size=(25, 25)))[0]
    trained = 0.3 * random * np.geomspace(1, 0.03, 25) @ basis
    return {"random": random.astype(np.float32), "trained": trained.astype(np.float32)}


@pytest.mark.parametrize("kind", ["random", "trained"])
@pytest.mark.parametrize(("gain", "rtol"), [
    (1e4, 5e-5),  # float32: alpha r = 1e4 on every item, refined once; the bound of algorithm.md, identity 5
    (1e8, np.inf),  # beyond float32: only finite
])  # fmt: skip
def test_heavy_confidence_matches_dense_reference(kind, gain, rtol, catalogues, observed):
    item_factors = catalogues[kind]
    rng = np.random.default_rng(2)
    for history in (1, 3, 20, 25, 28, 200, 1000):
        ids = rng.choice(1200, history, replace=False)
        c, p = np.ones(1200), np.zeros(1200)
        c[ids], p[ids] = 1 + gain, 1.0
        observations = observed(ids, c[ids], p[ids], slots=1000)
        x = solve(MODEL, jnp.asarray(item_factors), observations)
        assert np.isfinite(x).all()
        expected = solve_user(item_factors, np.float32(c).astype(float), p, regularization=1.0)
        error = relative_error(x, expected)
        assert error <= rtol, f"history {history}: {error}"


def batch_of_users(observed, gains, dtype):
    """Users with one row of history each, confidence 1 + gain on 7 items; and their dense factors."""
    item_factors, *_ = one_user(8, 1, 1.0, 1.0)
    rng = np.random.default_rng(9)
    rows, expected = [], []
    for gain in gains:
        ids = rng.choice(NUM_ITEMS, 7, replace=False)
        c, p = np.ones(NUM_ITEMS), np.zeros(NUM_ITEMS)
        c[ids], p[ids] = 1.0 + gain, rng.normal(1.0, 1.0, 7).astype(np.float32)
        rows.append(observed(ids, c[ids], p[ids], slots=SLOTS, dtype=dtype))
        expected.append(solve_user(item_factors, c, p, regularization=1.0))
    return jnp.asarray(item_factors, dtype), jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows), expected


def solve_batch(item_factors, observations, model=MODEL):
    row_sums = owned_by(jnp.arange(observations.mask.shape[0]), num_clients=observations.mask.shape[0])
    shared = shared_part(model, item_factors, gram(item_factors))
    return solve_rows(model, shared, observations, row_sums)


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float32, 1e-5), (np.float64, 1e-9)])  # as above
@pytest.mark.parametrize("gains", [(0.5, 1.0, 2.0), (0.5, 1.0, 50.0)], ids=["light", "one heavy"])
def test_both_methods_match_dense_reference(gains, dtype, rtol, observed):
    with jax.enable_x64(dtype == np.float64):
        item_factors, observations, expected = batch_of_users(observed, gains, dtype)
        solution = jax.jit(solve_batch)(item_factors, observations)
        for user_factor, dense in zip(solution.user_factors, expected, strict=True):
            assert relative_error(user_factor, dense) <= rtol
        assert float(jnp.max(solution.error)) <= 100 * rtol


def energy_error(item_factors, c, x, expected):
    y = np.asarray(item_factors, np.float64)
    matrix = y.T @ (c[:, None] * y) + np.eye(y.shape[1])
    apart = np.asarray(x, np.float64) - expected
    return np.sqrt(apart @ matrix @ apart / (expected @ matrix @ expected))


@pytest.mark.parametrize("tolerance", [0.3, 0.01])
def test_error_of_an_inexact_solve_is_reported_and_within_the_tolerance(tolerance, observed):
    gains = np.array([0.5, 1.0, 2.0])
    item_factors, observations, expected = batch_of_users(observed, gains, np.float32)
    model = MODEL._replace(solve_tolerance=tolerance)
    solution = jax.jit(solve_batch)(item_factors, observations, model)
    assert 1e-6 < float(jnp.max(solution.error)) <= tolerance
    for user, gain in enumerate(gains):
        c = np.ones(NUM_ITEMS)
        c[np.asarray(observations.item_ids[user])[np.asarray(observations.mask[user])]] += gain
        error = energy_error(item_factors, c, solution.user_factors[user], expected[user])
        assert error <= 1.001 * float(solution.error[user])


@pytest.mark.parametrize("last", [2.0, 1e4], ids=["light", "heavy"])
def test_inexact_factors_do_not_depend_on_who_is_computed_with_them(last, observed):
    y, observations, _ = batch_of_users(observed, (0.1, 2.0, last), np.float32)
    model = MODEL._replace(solve_tolerance=0.1)
    together = jax.jit(solve_batch)(y, observations, model)
    for user in range(3):
        alone = jax.tree.map(lambda leaf, user=user: leaf[user : user + 1], observations)
        expected = jax.jit(solve_batch)(y, alone, model)
        np.testing.assert_allclose(
            together.user_factors[user], expected.user_factors[0], rtol=1e-5, atol=1e-7
        )


def test_vmap_over_light_and_heavy_batches_equals_each_alone(observed):
    y, light, _ = batch_of_users(observed, (0.5, 1.0, 2.0), np.float32)
    heavy = light._replace(confidence=1.0 + 100.0 * light.confidence)
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), light, heavy)
    together = jax.jit(jax.vmap(solve_batch, in_axes=(None, 0)))(y, both)
    for index, alone in enumerate((light, heavy)):
        expected = jax.jit(solve_batch)(y, alone)
        np.testing.assert_allclose(together.user_factors[index], expected.user_factors, rtol=1e-5, atol=1e-7)


def test_vmapped_choice_remains_a_branch(observed):
    y, light, _ = batch_of_users(observed, (0.5, 1.0, 2.0), np.float32)
    both = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), light)
    text = str(jax.make_jaxpr(jax.vmap(solve_batch, in_axes=(None, 0)))(y, both))
    assert "cond[" in text


@jax.jit
@jax.hessian
def curvature(item_factors, observations):
    return jnp.sum(solve_user_factor(MODEL, item_factors, observations))


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-12, 1e-25])
def test_factor_and_derivatives_are_sound_at_any_scale_of_the_item_factors(observed, scale):
    """In float32, the square of a residual underflows from about 1e-23."""
    item_factors, ids, c, p = one_user(11, 7, 20.0, 1.0)
    observations, y = observed(ids, c[ids], p[ids], slots=SLOTS), jnp.asarray(item_factors, jnp.float32)
    x = solve(MODEL, y * scale, observations)
    shrunk = solve_user(item_factors * scale, c, p, regularization=1.0)
    np.testing.assert_allclose(x / scale, shrunk / scale, rtol=1e-4)  # float32, condition 1e3
    assert np.isfinite(curvature(y * scale, observations)).all()


def test_gradient_of_a_user_factor_matches_finite_difference(observed, float64):
    item_factors, ids, c, p = one_user(10, 7, 20.0, 1.0)
    observations = observed(ids, c[ids], p[ids], slots=SLOTS, dtype=jnp.float64)

    @jax.jit
    def norm(regularization):
        model = Model(WEIGHTING, regularization)
        return jnp.sum(solve_user_factor(model, jnp.asarray(item_factors), observations) ** 2)

    step = 1e-5
    difference = (norm(1.0 + step) - norm(1.0 - step)) / (2 * step)
    np.testing.assert_allclose(jax.jit(jax.grad(norm))(1.0), difference, rtol=1e-7)  # error of order step^2


def test_rank_deficient_without_regularization_is_finite(observed):
    item_factors, ids, c, p = one_user(3, 4, 10.0, 1.0)
    item_factors[:, 3:] = item_factors[:, :3]  # rank 3 of 6
    observations = observed(ids, c[ids], p[ids], slots=SLOTS)
    for w0 in (0.0, 1.0):
        y = jnp.asarray(item_factors, jnp.float32)
        model = Model(WEIGHTING, 0.0, w0)
        x = solve(model, y, observations)
        assert np.isfinite(x).all()
        zero = solve(model, jnp.zeros_like(y), observations)
        assert np.isfinite(zero).all()


def test_invariant_to_padding(observed):
    item_factors, ids, c, p = one_user(4, 7, 20.0, 1.0)
    y = jnp.asarray(item_factors, jnp.float32)
    padded = observed(ids, c[ids], p[ids], slots=SLOTS)
    wild = padded._replace(  # what stands in an empty slot is never read
        item_ids=jnp.where(padded.mask, padded.item_ids, 11),
        confidence=jnp.where(padded.mask, padded.confidence, 1e6),
        preference=jnp.where(padded.mask, padded.preference, -50.0),
    )
    plain, other = (solve(MODEL, y, observations) for observations in (padded, wild))
    np.testing.assert_array_equal(plain, other)
    tight = solve(MODEL, y, observed(ids, c[ids], p[ids]))
    np.testing.assert_allclose(tight, plain, rtol=1e-5, atol=1e-6)  # float32: sums in another order


def test_empty_history_gives_zero(observed):
    y = jnp.asarray(one_user(5, 1, 1.0, 1.0)[0], jnp.float32)
    assert not np.asarray(solve(MODEL, y, observed([], [], [], slots=SLOTS))).any()


def test_batched_solve_lowers_to_no_library_call(observed):
    item_factors, ids, c, p = one_user(6, 7, 20.0, 1.0)
    one = observed(ids, c[ids], p[ids])
    batch = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), one)
    y = jnp.asarray(item_factors, jnp.float32)
    batched = jax.vmap(solve_user_factor, in_axes=(None, None, 0, None))
    lowered = jax.jit(batched).lower(MODEL, y, batch, gram(y))
    for text in (lowered.as_text(), lowered.compile().as_text()):
        calls = [line for line in text.splitlines() if "custom_call" in line or "custom-call" in line]
        calls += [
            word for word in ("stablehlo.cholesky", "triangular_solve", "lapack", "potrf") if word in text
        ]
        assert not calls
