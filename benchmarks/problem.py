"""Calls into fcf_jax: models, packing, federations and ALS; and the iterations of `implicit` beside them.

Scripts set up a `Problem` and take everything else from it, so that the arguments of the public names are
written in this file only. Unless a script says otherwise: implicit feedback with confidence c = 1 + 4 r and
lambda = 1. Rounds start from item factors that were trained for a few rounds: at a random start the clients'
solver needs fewer steps, and rounds are faster.
"""

import contextlib
import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
import optax
from common import seconds_of
from jax import numpy as jnp
from jax.sharding import Mesh

import fcf_jax as fcf
from fcf_jax.als import Als, centralized_als, run_sweeps
from fcf_jax.core.federation import Federation, cohort_rows
from fcf_jax.core.records import Key, Mechanism, Scalar, Weighting
from fcf_jax.core.sampling import Sampling
from fcf_jax.core.server import ServerState
from fcf_jax.evaluation import EvaluationData, evaluate_data

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

ALPHA, REGULARIZATION = 4.0, 1.0
NO_IMPLICIT = "implicit is not installed and left out; pip install 'fcf_jax[bench]'"
_SWEEPS, _MIN_SWEEPS, _MAX_SWEEPS, _CONVERGED = 10, 40, 1000, 1e-5


class Model(NamedTuple):
    """Weighting, lambda and w0 of a factor model."""

    weighting: Weighting
    regularization: Scalar = REGULARIZATION
    unobserved_weight: Scalar = 1.0


def default_model() -> Model:
    """Return the model of all benchmarks: c = 1 + 4 r, lambda 1."""
    return Model(fcf.implicit_feedback(alpha=ALPHA))


def guarded_gram(model: Model, *, confidence_factor: float = 1.0) -> optax.GradientTransformation:
    """Create the guarded Gram step for this model."""
    return fcf.guarded_gram(
        regularization=model.regularization,
        unobserved_weight=model.unobserved_weight,
        confidence_factor=confidence_factor,
    )


def running_sums(
    model: Model, *, learning_rate: float = 0.5, confidence_factor: float = 3.0, averaging: float = 0.8
) -> optax.GradientTransformation:
    """Create the running-sums step for this model; round t has the weight (t + 1)^-averaging."""
    return fcf.running_sums(
        learning_rate,
        regularization=model.regularization,
        unobserved_weight=model.unobserved_weight,
        confidence_factor=confidence_factor,
        averaging=lambda round_index: (round_index + 1.0) ** -averaging,
    )


class Problem(NamedTuple):
    """Model and clients of one benchmark, on the devices that run its rounds.

    Attributes:
        model: of the clients and the server.
        clients: packed, on the devices of `mesh`.
        num_items: M.
        num_factors: K.
        mesh: devices that share a round; None: the default device.
    """

    model: Model
    clients: fcf.PackedClients
    num_items: int
    num_factors: int
    mesh: Mesh | None = None

    def federation(
        self,
        optimizer: optax.GradientTransformation,
        *,
        cohort_size: int | None = None,
        sampling: Sampling = "shuffled",
        channel: Mechanism | None = None,
    ) -> Federation:
        """Set up the federation with this server step."""
        return fcf.federated_cf(
            optimizer,
            self.model.weighting,
            num_items=self.num_items,
            num_factors=self.num_factors,
            regularization=self.model.regularization,
            unobserved_weight=self.model.unobserved_weight,
            cohort_size=cohort_size,
            sampling=sampling,
            mechanism=channel,
            mesh=self.mesh,
        )

    def start(self, federation: Federation, key: Key, item_factors: jax.Array | None = None) -> ServerState:
        """Create the first state on the devices, with the given item factors or those drawn from the key."""
        state = federation.init(key)
        if item_factors is not None:
            state = state._replace(item_factors=item_factors)
        return state if self.mesh is None else fcf.place_state(state, self.mesh)

    def cohort_sum(self, item_factors: jax.Array, clients: fcf.PackedClients) -> fcf.CohortSum:
        """Sum what these clients send; clients and item factors may be traced."""
        return fcf.cohort_sum(
            item_factors,
            clients,
            self.model.weighting,
            regularization=self.model.regularization,
            unobserved_weight=self.model.unobserved_weight,
            mesh=self.mesh,
        )[0]

    def loss(self) -> Callable[[Any], float]:
        """Return the function from item factors to min_X J(X, Y) on the training set."""
        summed = jax.jit(lambda item_factors, clients: self.cohort_sum(item_factors, clients).loss)

        def loss(item_factors: Any) -> float:
            on_host = np.asarray(item_factors)
            penalty = self.model.regularization * float((on_host**2).sum())
            return float(summed(on_host, self.clients) + penalty)

        return loss

    def als(self) -> Als:
        """Set up centralised ALS of the same model."""
        return centralized_als(
            self.model.weighting,
            num_items=self.num_items,
            num_factors=self.num_factors,
            regularization=self.model.regularization,
            unobserved_weight=self.model.unobserved_weight,
            mesh=self.mesh,
        )


def problem_of(train: fcf.Interactions, *, num_factors: int, mesh: Mesh | None = None) -> Problem:
    """Pack the training set for these devices, with the model of all benchmarks."""
    return Problem(default_model(), pack_clients(train, mesh), train.num_items, num_factors, mesh)


def pack_clients(interactions: fcf.Interactions, mesh: Mesh | None = None) -> fcf.PackedClients:
    """Pack the histories of all users onto the devices of `mesh`."""
    clients = fcf.batch_clients(interactions, num_shares=1 if mesh is None else mesh.shape["clients"])
    return clients if mesh is None else fcf.place_clients(clients, mesh)


def pack_items(interactions: fcf.Interactions, mesh: Mesh | None = None) -> fcf.PackedClients:
    """Pack the same interactions item by item, as ALS needs them."""
    return pack_clients(interactions.transpose(), mesh)


def use_all_cores() -> None:
    """Make each core of a CPU one device, unless JAX has already started."""
    with contextlib.suppress(ValueError):
        fcf.use_cpu_devices()


def use_devices(num_devices: int | None) -> None:
    """Make a CPU count as `num_devices` devices, by default one for each core."""
    try:
        fcf.use_cpu_devices(num_devices)
    except ValueError as error:
        if num_devices is not None and num_devices != jax.device_count():
            sys.exit(f"--num-devices: {error}")


def all_devices() -> Mesh | None:
    """Return the mesh of all devices; None if there is only one."""
    return fcf.client_mesh() if jax.device_count() > 1 else None


def train_item_factors(problem: Problem, *, num_rounds: int = 10) -> jax.Array:
    """Run rounds of everybody with the guarded Gram step, and return the item factors."""
    federation, key = problem.federation(guarded_gram(problem.model)), jax.random.key(0)
    state = problem.start(federation, key)
    return fcf.run_rounds(federation, key, state, problem.clients, num_rounds=num_rounds)[0].item_factors


class Rounds(NamedTuple):
    """Calls of a fixed number of rounds, each from the state where the previous call ended.

    Attributes:
        run: runs the rounds of one call.
        num_rounds: rounds in a call.
        plan_s: seconds for each round that it takes to find how many rows the cohorts need.
    """

    run: Callable[[], ServerState]
    num_rounds: int
    plan_s: float


def rounds_of(
    problem: Problem, federation: Federation, item_factors: jax.Array, *, num_rounds: int, num_calls: int
) -> Rounds:
    """Prepare calls of `num_rounds` rounds; the cohorts of all `num_calls` calls share one program."""
    key, planned = jax.random.key(0), num_rounds * num_calls
    state = problem.start(federation, key, item_factors)

    def plan() -> int:
        return cohort_rows(federation, key, state, problem.clients, num_rounds=planned)

    capacity = plan()
    plan_s = 0.0 if federation.takes_everybody else seconds_of(plan) / planned
    carried = [state]

    def run() -> ServerState:
        carried[0], _ = fcf.run_rounds(
            federation, key, carried[0], problem.clients, num_rounds=num_rounds, row_capacity=capacity
        )
        return carried[0]

    return Rounds(run, num_rounds, plan_s)


def converge_als(problem: Problem, key: Key, items: fcf.PackedClients) -> tuple[jax.Array, list[float]]:
    """Run ALS until a sweep lowers the loss by less than 1e-5 of it, but at least 40 sweeps.

    Returns:
        The item factors, and the loss before each sweep.
    """
    als, losses = problem.als(), list[float]()
    item_factors = jax.device_put(als.init(key), problem.clients.row_counts.sharding)
    while len(losses) < _MIN_SWEEPS or losses[-2] - losses[-1] >= _CONVERGED * abs(losses[-2]):
        factors, info = run_sweeps(als, item_factors, problem.clients, items, num_sweeps=_SWEEPS)
        item_factors = factors.item_factors
        losses += np.asarray(info.loss, np.float64).tolist()
        if len(losses) >= _MAX_SWEEPS:
            break
    return item_factors, losses


def rank(model: Model, item_factors: Any, data: EvaluationData, *, k: int) -> dict[str, float]:
    """Rank the catalogue for every user of the evaluation data, and average the metrics."""
    return evaluate_data(
        jnp.asarray(item_factors),
        data,
        model.weighting,
        regularization=model.regularization,
        unobserved_weight=model.unobserved_weight,
        k=k,
    )


def has_implicit() -> bool:
    """Return whether `implicit` is installed."""
    return importlib.util.find_spec("implicit") is not None


def confidences(train: fcf.Interactions) -> "csr_matrix":
    """Return c = 1 + alpha r [users, items], the matrix that `implicit` expects."""
    from scipy.sparse import csr_matrix

    matrix = csr_matrix(train.to_scipy())
    matrix.data = (1.0 + ALPHA * matrix.data).astype(np.float32)
    return matrix


def draw_factors(size: int, num_factors: int, *, seed: int) -> np.ndarray:
    """Draw factors as `implicit` does: uniform in [0, 0.01)."""
    return 0.01 * np.random.default_rng(seed).random((size, num_factors), dtype=np.float32)


def implicit_iterations(
    matrix: "csr_matrix", transposed: "csr_matrix", item_factors: np.ndarray, *, use_cg: bool, seed: int = 0
) -> tuple[Callable[[int], None], np.ndarray]:
    """Prepare iterations of `implicit`: its solver for both sides, on all cores.

    To be called under `single_threaded_blas`.

    Args:
        matrix: confidences [users, items].
        transposed: the same [items, users], in compressed rows.
        item_factors: where the items start; the users start as `implicit` draws them.
        use_cg: three steps of conjugate gradients, its default; False: its exact solver.
        seed: of the users' start.

    Returns:
        The function that runs a number of iterations, and the item factors that it changes in place.
    """
    model = importlib.import_module("implicit.cpu.als").AlternatingLeastSquares(use_cg=use_cg)
    items = np.array(item_factors)
    users = draw_factors(len(matrix.indptr) - 1, items.shape[1], seed=seed)

    def run(num_iterations: int) -> None:
        for _ in range(num_iterations):
            model.solver(matrix, users, items, REGULARIZATION, num_threads=0)
            model.solver(transposed, items, users, REGULARIZATION, num_threads=0)

    return run, items


@contextlib.contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Limit NumPy's BLAS to one thread, as `implicit` asks for: it has threads of its own."""
    if importlib.util.find_spec("threadpoolctl") is None:  # comes with implicit
        yield
        return
    threadpoolctl = importlib.import_module("threadpoolctl")
    with threadpoolctl.threadpool_limits(1, "blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # implicit warns although the limit is set
        yield
