"""Peer: FedJAX's for_each_client on its jit backend.

The history is the client's input and all the work is `client_final`, which sees the shared input:
a batch for `client_step` would need a copy of the item factors in every client's state. A
client's output is its dense upload [items, factors]; a jitted, in-place addition sums them up.
"""

from functools import partial

import jax
import numpy as np
from exchange import missing, peer_parser, read_problem, serve_rounds
from jax import numpy as jnp
from python_loop import add, client_update, gram, padded

try:
    import fedjax  # pyright: ignore[reportMissingImports]
except ImportError:
    missing("fedjax")


def client_init(shared_input, client_input):
    """Start from the client's history."""
    return client_input


def client_step(state, batch):
    """Leave the state as it is: no client has batches."""
    return state


def client_final(shared_input, state, *, regularization: float):
    """Compute the upload."""
    return client_update(*shared_input, *state, regularization=regularization)


def main() -> None:
    arguments = peer_parser(__doc__).parse_args()
    problem = read_problem(arguments.problem)
    item_factors = jnp.asarray(problem.item_factors)
    clients = [(user, [], padded(*history)) for user, history in enumerate(problem.histories())]
    with fedjax.for_each_client_backend("jit"):
        final = partial(client_final, regularization=problem.regularization)
        run_clients = fedjax.for_each_client(client_init, client_step, final)

    def run_round() -> np.ndarray:
        upload = jnp.zeros_like(item_factors)
        for _, output in run_clients((item_factors, gram(item_factors)), clients):
            upload = add(upload, output)
        return np.asarray(jax.block_until_ready(upload))

    serve_rounds(run_round, arguments.answer, ("fedjax", "jax", "jaxlib", "numpy"))


if __name__ == "__main__":
    main()
