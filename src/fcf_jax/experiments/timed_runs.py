"""What the benchmarks time: rounds of a federation, and iterations of `implicit`.

Rounds begin with trained item factors: at a random start the clients' solver needs fewer steps,
and a round would seem faster than most are.
"""

import contextlib
import importlib
import importlib.util
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float
from scipy.sparse import csr_matrix

from fcf_jax.core.federation import Federation, cohort_rows, federated_cf, run_rounds
from fcf_jax.core.records import PackedClients, Weighting
from fcf_jax.core.server import ServerState
from fcf_jax.data import Interactions
from fcf_jax.experiments.build.devices import pack_on
from fcf_jax.experiments.timing import seconds_of
from fcf_jax.optimizers import guarded_gram
from fcf_jax.parallel.mesh import client_mesh, place_state, use_cpu_devices

ItemFactors = Float[Array, "items factors"]


class Rounds(NamedTuple):
    """Calls of a fixed number of rounds, each going on where the last one ended."""

    run: Callable[[], Any]
    num_rounds: int  # in a call
    plan_s: float  # of finding how many rows the cohorts need, for each round


def use_all_cores() -> None:
    """Let JAX see a CPU as one device for each core; once it has started, it stays as it is."""
    with contextlib.suppress(ValueError):
        use_cpu_devices()


def local_mesh() -> Mesh | None:
    """Take all devices; None where there is only one."""
    return client_mesh() if jax.device_count() > 1 else None


def placed(pack: Callable[..., PackedClients], mesh: Mesh | None) -> PackedClients:
    """Pack the clients for the devices that there are."""
    return pack_on(mesh, pack, is_streamed=False)


def trained(
    weighting: Weighting, clients: PackedClients, *, num_rounds: int = 10, **model_options: Any
) -> ItemFactors:
    """Run some rounds with everybody; options as for `federated_cf`."""
    weights = {name: model_options.get(name, 1.0) for name in ("regularization", "unobserved_weight")}
    federation = federated_cf(guarded_gram(**weights), weighting, **model_options)
    key, mesh = jax.random.key(0), model_options.get("mesh")
    state = federation.init(key) if mesh is None else place_state(federation.init(key), mesh)
    return run_rounds(federation, key, state, clients, num_rounds=num_rounds)[0].item_factors


def rounds_of(
    federation: Federation,
    clients: PackedClients,
    item_factors: ItemFactors,
    mesh: Mesh | None,
    *,
    num_rounds: int,
    num_calls: int,
) -> Rounds:
    """Prepare calls of `num_rounds` rounds, with one size of cohort for all `num_calls` of them."""
    key = jax.random.key(0)
    state = federation.init(key)._replace(item_factors=item_factors)
    state = state if mesh is None else place_state(state, mesh)
    planned = num_rounds * num_calls

    def plan() -> int:
        return cohort_rows(federation, key, state, clients, num_rounds=planned)

    if federation.takes_everybody:
        capacity, plan_s = 1, 0.0
    else:
        capacity = plan()
        plan_s = seconds_of(plan) / planned
    carried = [state]

    def run() -> ServerState:
        carried[0], _ = run_rounds(
            federation, key, carried[0], clients, num_rounds=num_rounds, row_capacity=capacity
        )
        return carried[0]

    return Rounds(run, num_rounds, plan_s)


def confidences(interactions: Interactions, *, alpha: float) -> csr_matrix:
    """Return c = 1 + alpha r, the matrix that `implicit` expects."""
    matrix = csr_matrix(interactions.to_scipy())
    matrix.data = (1.0 + alpha * matrix.data).astype(np.float32)
    return matrix


def implicit_iterations(
    matrix: csr_matrix, *, num_factors: int, regularization: float, use_cg: bool, num_iterations: int
) -> Callable[[], None]:
    """Prepare calls of `num_iterations` iterations of `implicit`: its solver for both sides, all cores.

    Neither its transposition of the data nor its progress bar is in a call. To be prepared and
    called under `single_threaded_blas`.

    Args:
        matrix: the confidences [users, items].
        use_cg: its default, three steps of conjugate gradients; False: exact.

    Raises:
        ImportError: when `implicit` is not installed.
    """
    als = importlib.import_module("implicit.cpu.als")
    model = als.AlternatingLeastSquares(
        factors=num_factors, regularization=regularization, alpha=1.0, iterations=1, use_cg=use_cg
    )
    model.fit(matrix, show_progress=False)  # draws the factors
    transposed = matrix.T.tocsr()
    users, items = model.user_factors, model.item_factors

    def run() -> None:
        for _ in range(num_iterations):
            model.solver(matrix, users, items, regularization, num_threads=0)
            model.solver(transposed, items, users, regularization, num_threads=0)

    return run


@contextlib.contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Keep NumPy's BLAS to one thread, as `implicit` asks for: its threads are its own."""
    if importlib.util.find_spec("threadpoolctl") is None:  # it comes with implicit
        yield
        return
    threadpoolctl = importlib.import_module("threadpoolctl")
    with threadpoolctl.threadpool_limits(1, "blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of implicit, about what has just been done
        yield
