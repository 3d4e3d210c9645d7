"""One client's round, and what it sends."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from references import REGULARIZATION, relative_error, solve_user, upload, user_loss
from small_data import MODEL

from fcf_jax.channel import link
from fcf_jax.core.client import chunk_uploads, client_update, dense_upload, upload_norms
from fcf_jax.core.cohort_sum import broadcast_of
from fcf_jax.core.objective import all_residuals, gram, sparse_residuals
from fcf_jax.core.solve import shared_part, solve_history

USERS = (0, 3, 5)  # an ordinary one, an empty one, one with nearly all items


@pytest.mark.parametrize("user", USERS)
def test_client_update_matches_dense_reference(small, observed, user):
    c, p, y = small.c[user], small.p[user], small.item_factors
    ids = np.flatnonzero(p)
    observations = observed(ids, c[ids], p[ids], slots=17)
    y32 = jnp.asarray(y, jnp.float32)
    update, info = jax.jit(client_update)(MODEL, y32, observations, gram(y32))
    x = solve_user(y, c, p, regularization=REGULARIZATION)
    assert relative_error(update.user_factor, x) <= 1e-5 or not x.any()  # float32, alpha r <= 20
    residual = np.asarray(update.residuals)
    np.testing.assert_allclose(residual[: ids.size], (c * (p - y @ x))[ids], atol=2e-4)  # c <= 21 times 1e-5
    assert not residual[ids.size :].any()
    np.testing.assert_allclose(info.loss, user_loss(y, x, c, p, regularization=REGULARIZATION), rtol=1e-5)
    assert float(info.solve_error) < 1e-3  # float32, condition about 1e3, before the refinement

    sent = dense_upload(MODEL, y32, update, observations)
    np.testing.assert_allclose(sent, upload(y, x, c, p), rtol=1e-4, atol=1e-4)  # float32, c up to 21
    residuals = all_residuals(MODEL, y32, update.user_factor, observations)
    np.testing.assert_array_equal(sent, np.outer(residuals, update.user_factor))
    assert np.linalg.matrix_rank(np.asarray(sent)) <= 1


def test_client_computes_the_gram_matrix_that_it_is_not_given(small, observed):
    ids = np.flatnonzero(small.p[0])
    observations = observed(ids, small.c[0, ids], small.p[0, ids], slots=17)
    y, update_one = jnp.asarray(small.item_factors, jnp.float32), jax.jit(client_update)
    given, computed = update_one(MODEL, y, observations, gram(y)), update_one(MODEL, y, observations)
    jax.tree.map(
        lambda left, right: np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-5), given, computed
    )  # float32, fused otherwise


def uploads_of(model, item_factors, observations, item_weights=None):
    """Build the uploads of a chunk of one client, solved directly."""
    rows, first = jax.tree.map(lambda leaf: leaf[None], observations), jnp.zeros(1, int)
    broadcast = broadcast_of(model, item_factors, link(item_weights=item_weights))
    shared = shared_part(model, broadcast.item_factors, broadcast.item_gram)
    uploads = chunk_uploads(broadcast, shared, rows, first, first, num_users=1)
    solution = solve_history(model, item_factors, broadcast.item_gram, observations)
    seen = sparse_residuals(model, solution.scores, rows)
    return uploads._replace(user_factors=solution.user_factors[None], scores=solution.scores, seen=seen)


norms_of = jax.jit(upload_norms)
uploads_of = jax.jit(uploads_of)
WEIGHTS = np.random.default_rng(0).uniform(0.2, 2.0, 17).astype(np.float32) * (np.arange(17) % 3 > 0)


@pytest.mark.parametrize(
    ("w0", "weights"), [(0.0, None), (0.1, None), (1.0, None), (2.0, None), (1.0, WEIGHTS)]
)
@pytest.mark.parametrize("user", USERS)
def test_norms_match_dense_reference_and_never_fall_below_it(small, observed, user, w0, weights):
    c, p, y = np.where(small.p[user] > 0, small.c[user], w0), small.p[user], small.item_factors
    ids = np.flatnonzero(p)
    observations = observed(ids, c[ids], p[ids], slots=17)
    y32 = jnp.asarray(y, jnp.float32)
    item_weights = None if weights is None else jnp.asarray(weights)
    uploads = uploads_of(MODEL._replace(unobserved_weight=w0), y32, observations, item_weights)
    norms = norms_of(uploads._replace(loss=jnp.array([-3.0])))
    importance = np.ones(17, np.float32) if weights is None else weights
    x = np.asarray(uploads.user_factors[0], np.float64)
    dense = {
        "upload": np.linalg.norm(importance[:, None] * upload(np.asarray(y32, np.float64), x, c, p)),
        "user_gram": np.linalg.norm(np.outer(x, x)),
        "confidence_sum": np.linalg.norm(importance * np.where(p > 0, c - w0, 0.0)),
        "loss": 3.0,
    }
    sizes = np.abs(y) @ np.abs(x)  # of the scores, if all signs agreed
    terms = importance * (c * (np.abs(p) + sizes) + w0 * sizes) * (p > 0)
    lost = {"upload": 2e-6 * np.linalg.norm(x) * np.linalg.norm(terms)}  # where c (p - s) nearly cancels
    for name, norm in norms._asdict().items():
        assert dense[name] <= float(norm[0]) <= (1 + 3e-5) * dense[name] + lost.get(name, 0.0), name


def test_empty_history_sends_exactly_nothing(small, observed):
    y = jnp.asarray(small.item_factors, jnp.float32)
    observations = observed([], [], [], slots=17)
    update, info = jax.jit(client_update)(MODEL, y, observations)
    assert not np.asarray(update.user_factor).any() and float(info.loss) == 0.0
    assert not np.asarray(dense_upload(MODEL, y, update, observations)).any()


@pytest.mark.parametrize("share", [0.9, 1.0])
@pytest.mark.parametrize("regularization", [1e-5, 0.01, 0.1])  # .01 and 1.0 fail without what is added
def test_norm_of_what_almost_cancels_never_falls_below_the_dense_one(observed, share, regularization):
    """A history of most of the catalogue, whose every preference the factors can meet."""
    y = np.random.default_rng(0).normal(0.0, 0.3, (400, 4)).astype(np.float32)
    y[:, 0] = 1.0
    ids = np.arange(round(share * 400))
    history = observed(ids, np.full(ids.size, 1.5), np.ones(ids.size), slots=400)
    uploads = uploads_of(MODEL._replace(regularization=regularization), jnp.asarray(y), history)
    held = np.arange(400) < ids.size
    x = np.asarray(uploads.user_factors[0], np.float64)
    dense = np.linalg.norm(upload(y.astype(np.float64), x, np.where(held, 1.5, 1.0), held.astype(float)))
    assert dense <= float(norms_of(uploads).upload[0])
