"""Peer: a Python loop over the clients with one jitted client function.

A client returns its dense upload [items, factors] and a jitted, in-place addition sums them up.
With --fused, the loop's fastest form that we know: solving and scattering into the running sums
is one jitted call and no upload exists. Histories are padded to powers of two, which is faster
than padding to the longest and compiles seven times. Factors are solved by Cholesky.
"""

from collections.abc import Callable
from functools import partial

import jax
import numpy as np
from exchange import peer_parser, read_problem, serve_rounds
from jax import numpy as jnp
from jax.scipy.linalg import cho_factor, cho_solve


def padded(item_ids: np.ndarray, confidence: np.ndarray, shortest: int = 16) -> tuple:
    """Pad a history to a power of two with confidence 0, and place it on the device."""
    missing = max(shortest, 1 << (len(item_ids) - 1).bit_length()) - len(item_ids)
    return jnp.asarray(np.pad(item_ids, (0, missing))), jnp.asarray(np.pad(confidence, (0, missing)))


def solve_client(item_factors, item_gram, item_ids, confidence, *, regularization: float) -> tuple:
    """Return x [factors] and what the observed items add to -x.y_i in the residuals [history]."""
    rows = item_factors[item_ids]
    extra = jnp.where(confidence > 0, confidence - 1.0, 0.0)
    ridge = regularization * jnp.eye(item_factors.shape[1])
    user_factor = cho_solve(cho_factor(item_gram + (rows.T * extra) @ rows + ridge), confidence @ rows)
    scores = rows @ user_factor
    return user_factor, confidence - extra * scores


def client_update(item_factors, item_gram, item_ids, confidence, *, regularization: float):
    """Compute what a device sends, f(u, .) = e x^T [items, factors]."""
    user_factor, own = solve_client(
        item_factors, item_gram, item_ids, confidence, regularization=regularization
    )
    return jnp.outer((-(item_factors @ user_factor)).at[item_ids].add(own), user_factor)


def add_client(sums, item_factors, item_gram, item_ids, confidence, *, regularization: float) -> tuple:
    """Add one client to the sparse part of the sum and to the Gram matrix of the user factors."""
    user_factor, own = solve_client(
        item_factors, item_gram, item_ids, confidence, regularization=regularization
    )
    seen, user_gram = sums
    return seen.at[item_ids].add(jnp.outer(own, user_factor)), user_gram + jnp.outer(user_factor, user_factor)


gram = jax.jit(lambda factors: factors.T @ factors)
add = jax.jit(jnp.add, donate_argnums=0)
add_unseen = jax.jit(lambda sums, item_factors: sums[0] - item_factors @ sums[1])


def plain_loop(item_factors, histories: list, regularization: float) -> Callable[[], np.ndarray]:
    """Return a round that adds up every client's upload."""
    client = jax.jit(partial(client_update, regularization=regularization))

    def run_round() -> np.ndarray:
        item_gram, upload = gram(item_factors), jnp.zeros_like(item_factors)
        for item_ids, confidence in histories:
            upload = add(upload, client(item_factors, item_gram, item_ids, confidence))
        return np.asarray(upload)

    return run_round


def fused_loop(item_factors, histories: list, regularization: float) -> Callable[[], np.ndarray]:
    """Return a round that keeps running sums only."""
    client = jax.jit(partial(add_client, regularization=regularization), donate_argnums=0)

    def run_round() -> np.ndarray:
        item_gram = gram(item_factors)
        sums = jnp.zeros_like(item_factors), jnp.zeros_like(item_gram)
        for item_ids, confidence in histories:
            sums = client(sums, item_factors, item_gram, item_ids, confidence)
        return np.asarray(add_unseen(sums, item_factors))

    return run_round


def main() -> None:
    parser = peer_parser(__doc__)
    parser.add_argument("--fused", action="store_true", help="keep running sums only")
    arguments = parser.parse_args()
    problem = read_problem(arguments.problem)
    loop = fused_loop if arguments.fused else plain_loop
    on_device = [padded(*history) for history in problem.histories()]
    everybody = loop(jnp.asarray(problem.item_factors), on_device, problem.regularization)
    serve_rounds(everybody, arguments.answer, ("jax", "jaxlib", "numpy"))


if __name__ == "__main__":
    main()
