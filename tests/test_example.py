"""The page that tells the algorithm and the library that runs it give the same item factors."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
from jax import numpy as jnp

from fcf_jax.core.federation import federated_cf, run_rounds
from fcf_jax.core.packing import batch_clients
from fcf_jax.core.server import server_init
from fcf_jax.core.weighting import implicit_feedback
from fcf_jax.data import Interactions

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
    interactions = Interactions.from_arrays(users, items, strengths[users, items], num_users=12, num_items=15)
    optimizer = optax.adam(0.05, b1=0.9, b2=0.99)
    federation = federated_cf(
        optimizer, implicit_feedback(alpha=4.0), num_items=15, num_factors=4, regularization=1.0
    )
    state = server_init(jnp.asarray(start, jnp.float32), optimizer)
    state, info = run_rounds(federation, jax.random.key(0), state, batch_clients(interactions), num_rounds=8)
    # float32 against float64; Adam divides a gradient by its own size: small ones show their rounding
    np.testing.assert_allclose(state.item_factors, expected, atol=1e-4)
    np.testing.assert_allclose(info.loss[-1], last_loss, rtol=1e-5)


def test_the_page_runs_and_its_loss_falls():
    run = subprocess.run([sys.executable, str(PAGE)], capture_output=True, text=True, timeout=60, check=True)
    losses = [float(line.split()[-1]) for line in run.stdout.splitlines()]
    assert len(losses) == 30 and losses[-1] < 0.7 * losses[0]
    assert len(PAGE.read_text().splitlines()) <= 100
