"""Centralised peers on the same model as ours: `implicit`, and the iALS of `irspack`. Needs no JAX.

All minimise J = sum over all (u, i) of c (p - x.y)^2, plus lambda (|X|^2 + |Y|^2), with c = 1 + alpha r and
p = 1 where r > 0, and c = w0 and p = 0 elsewhere. Iterations start from given item factors, solve all users,
then all items, on all cores.

- `implicit` takes its matrix for confidences, and gives all other pairs the weight 1: it gets c / w0 and
  lambda / w0.
- `irspack` under loss type ORIGINAL has the confidence alpha0 + value, and alpha0 elsewhere: it gets c - w0
  and alpha0 = w0. Its lambda (n + alpha0 N)^nu is ours. Its loss is J / 2.

Their conjugate gradients take three steps, from the factors of the last iteration, whatever the residual.
"""

import contextlib
import importlib
import importlib.util
import os
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

CG_STEPS = 3  # the default of both
MISSING = "left out, not installed: {}; pip install 'fcf_jax[bench]'"


class Task(NamedTuple):
    """What a peer is to solve.

    Attributes:
        strengths: r [users, items].
        item_factors: where the items start [items, factors].
        alpha: of the confidence 1 + alpha r.
        regularization: lambda.
        seed: of the users' start, drawn as `implicit` does.
        exponent: nu in lambda (n + w0 N)^nu, which `irspack` has too.
        unobserved_weight: w0.
    """

    strengths: "csr_matrix"
    item_factors: np.ndarray
    alpha: float
    regularization: float
    seed: int = 0
    exponent: float = 0.0
    unobserved_weight: float = 1.0


class Iterations(NamedTuple):
    """Iterations of a peer.

    Attributes:
        run: runs so many iterations, each from where the last one ended.
        item_factors: returns the item factors as they are now.
        loss: returns J where the peer can compute it.
    """

    run: Callable[[int], None]
    item_factors: Callable[[], np.ndarray]
    loss: Callable[[], float] | None = None


class Peer(NamedTuple):
    """A solver of a package; `prepare` is called, and its iterations run, under `single_threaded_blas`."""

    package: str
    prepare: Callable[[Task], Iterations]


def draw_factors(size: int, num_factors: int, *, seed: int) -> np.ndarray:
    """Draw factors as `implicit` does: uniform in [0, 0.01)."""
    return 0.01 * np.random.default_rng(seed).random((size, num_factors), dtype=np.float32)


def _implicit(task: Task, *, use_cg: bool) -> Iterations:
    model = importlib.import_module("implicit.cpu.als").AlternatingLeastSquares(use_cg=use_cg)
    model.cg_steps = CG_STEPS
    matrix: Any = task.strengths.astype(np.float32)  # copies
    matrix.data = (1.0 + np.float32(task.alpha) * matrix.data) / np.float32(task.unobserved_weight)
    regularization = task.regularization / task.unobserved_weight
    transposed = matrix.T.tocsr()
    items = np.array(task.item_factors)
    users = draw_factors(matrix.shape[0], items.shape[1], seed=task.seed)

    def run(num_iterations: int) -> None:
        for _ in range(num_iterations):
            model.solver(matrix, users, items, regularization, num_threads=0)
            model.solver(transposed, items, users, regularization, num_threads=0)

    return Iterations(run, lambda: items)


def _irspack(task: Task, *, solver: str) -> Iterations:
    core = _irspack_core()
    num_factors = task.item_factors.shape[1]
    config = (  # one chain: each call returns a copy
        core.IALSModelConfigBuilder()
        .set_K(num_factors)
        .set_alpha0(task.unobserved_weight)
        .set_reg(task.regularization)
        .set_nu(task.exponent)
        .set_loss_type(core.LossType.ORIGINAL)
        .set_init_stdev(0.1)
        .set_random_seed(task.seed)
        .set_lambda_user_feature(0.0)
        .set_lambda_item_feature(0.0)
        .set_feature_warmup_epochs(0)
        .build()
    )
    chosen = (
        core.IALSSolverConfigBuilder()
        .set_n_threads(os.cpu_count() or 1)
        .set_solver_type(core.SolverType[solver])
        .set_max_cg_steps(CG_STEPS)
        .set_ialspp_iteration(1)
        .set_ialspp_subspace_dimension(64)
        .build()
    )
    extra: Any = task.strengths.astype(np.float32)  # copies
    extra.data = np.float32(1.0 - task.unobserved_weight) + np.float32(task.alpha) * extra.data
    trainer = core.IALSTrainer(config, extra)
    trainer.user = draw_factors(len(task.strengths.indptr) - 1, num_factors, seed=task.seed)
    trainer.item = np.array(task.item_factors)

    def run(num_iterations: int) -> None:
        for _ in range(num_iterations):
            trainer.step(chosen)

    return Iterations(run, lambda: trainer.item, lambda: 2.0 * trainer.compute_loss(chosen))


def _irspack_core() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own use of pydantic is deprecated
        return importlib.import_module("irspack.recommenders._ials_core")


PEERS = {
    "implicit_cg": Peer("implicit", partial(_implicit, use_cg=True)),
    "implicit_exact": Peer("implicit", partial(_implicit, use_cg=False)),
    "irspack_cg": Peer("irspack", partial(_irspack, solver="CG")),
    "irspack_exact": Peer("irspack", partial(_irspack, solver="CHOLESKY")),
}


def is_installed(name: str) -> bool:
    """Return whether the package of this peer is installed."""
    return importlib.util.find_spec(PEERS[name].package) is not None


@contextlib.contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Limit NumPy's BLAS to one thread, as `implicit` asks for: the peers have threads of their own."""
    if importlib.util.find_spec("threadpoolctl") is None:  # comes with the peers
        yield
        return
    threadpoolctl = importlib.import_module("threadpoolctl")
    with threadpoolctl.threadpool_limits(1, "blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # implicit warns although the limit is set
        yield
