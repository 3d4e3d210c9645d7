"""The algorithm as one readable page, and the library that runs it: the same item factors."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
from jax import numpy as jnp

import fcf_jax as fcf

PAGE = Path(__file__).parents[1] / "examples" / "fcf_in_one_page.py"


def load_page():
    spec = importlib.util.spec_from_file_location("fcf_in_one_page", PAGE)
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    return page


def test_one_page_and_library_agree():
    rng = np.random.default_rng(0)
    strengths = np.where(rng.random((12, 15)) < 0.3, rng.integers(1, 5, (12, 15)), 0).astype(float)
    start = 0.1 * rng.normal(size=(15, 4))
    *_, (expected, last_loss) = load_page().federated_rounds(
        start, strengths, num_rounds=8, alpha=4.0, regularization=1.0, learning_rate=0.05
    )
    users, items = np.nonzero(strengths)
    interactions = fcf.Interactions.from_arrays(
        users, items, strengths[users, items], num_users=12, num_items=15
    )
    model = fcf.Model(fcf.implicit_feedback(alpha=4.0), regularization=1.0)
    federation = fcf.federated_cf(model, optax.adam(0.05, b2=0.99), num_items=15, num_factors=4)
    key, clients = jax.random.key(0), fcf.pack_clients(interactions)
    state = federation.init(key)._replace(item_factors=jnp.asarray(start, jnp.float32))
    state, info = fcf.run_rounds(federation, key, state, clients, num_rounds=8)
    # float32 against float64; Adam divides a gradient by its own size: small ones show their rounding
    np.testing.assert_allclose(state.item_factors, expected, atol=1e-4)
    np.testing.assert_allclose(info.loss[-1], last_loss, rtol=1e-5)


def test_the_page_runs_and_its_loss_falls():
    run = subprocess.run([sys.executable, str(PAGE)], capture_output=True, text=True, timeout=60, check=True)
    losses = [float(line.split()[-1]) for line in run.stdout.splitlines()]
    assert len(losses) == 30 and losses[-1] < 0.7 * losses[0]
    assert len(PAGE.read_text().splitlines()) <= 100
