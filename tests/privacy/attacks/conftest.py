"""Clients of a trained model, and what a curious server sees of them."""

import jax
import numpy as np
import pytest

import fcf_jax as fcf
from fcf_jax.data import simulate_taste
from fcf_jax.privacy.attacks import knowledge

NUM_USERS, NUM_ITEMS, NUM_FACTORS, ALPHA = 60, 300, 8, 4.0
USERS = np.arange(NUM_USERS)


@pytest.fixture(scope="session", params=["binarized", "raw"])
def seen(request):
    """Public knowledge, what the clients send, and the truth, after some rounds."""
    interactions = simulate_taste(num_users=NUM_USERS, num_items=NUM_ITEMS, mean_history=12, seed=1)
    interactions = interactions.binarized() if request.param == "binarized" else interactions
    model = fcf.Model(fcf.implicit_feedback(alpha=ALPHA), regularization=1.0)
    federation = fcf.federated_cf(
        model, fcf.optimizers.guarded_gram(), num_items=NUM_ITEMS, num_factors=NUM_FACTORS
    )
    key = jax.random.key(0)
    clients = fcf.pack_clients(interactions)
    state, _ = fcf.run_rounds(federation, key, federation.init(key), clients, num_rounds=5)
    uploads = knowledge.uploads_of(model, state.item_factors, knowledge.histories(interactions, USERS))
    public = knowledge.Public(np.asarray(state.item_factors, np.float64), 1.0, 1.0, ALPHA)
    return public, uploads, *knowledge.held_and_strengths(interactions, USERS)
