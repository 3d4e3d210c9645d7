"""Calls into fcf_jax: models, packing, federations and ALS.

Scripts set up a `Problem` and take everything else from it. Unless a script says otherwise: implicit feedback
with confidence c = 1 + 4 r and lambda = 1. Rounds start from item factors that were trained for a few rounds:
at a random start the clients' solver needs fewer steps, and rounds are faster.

Federations of the same sizes share their compiled programs if they have the same optimizer object, so the
usual server steps are constants.
"""

import contextlib
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from common import seconds_of
from jax import numpy as jnp
from jax.sharding import Mesh

import fcf_jax as fcf
from fcf_jax.core.federation import cohort_rows, draw_item_factors
from fcf_jax.core.records import Key
from fcf_jax.core.sampling import Sampling

ALPHA, REGULARIZATION = 4.0, 1.0
INEXACT = 0.003  # relative error at which clients of inexact rounds stop, as configurations have it
GUARDED_GRAM = fcf.optimizers.guarded_gram()
ADAM = optax.adam(0.01, b1=0.1, b2=0.99)


def default_model(alpha: float = ALPHA) -> fcf.Model:
    """Return the model of all benchmarks: c = 1 + alpha r, lambda 1."""
    return fcf.Model(fcf.implicit_feedback(alpha=alpha), REGULARIZATION)


class Problem(NamedTuple):
    """Model and clients of one benchmark, on the devices that run its rounds.

    Attributes:
        model: of the clients and the server.
        clients: packed, on the devices of `mesh`.
        num_items: M.
        num_factors: K.
        mesh: devices that share a round; None: the default device.
    """

    model: fcf.Model
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
        channel: fcf.channel.Link | None = None,
    ) -> fcf.Federation:
        """Set up the federation with this server step."""
        return fcf.federated_cf(
            self.model,
            optimizer,
            num_items=self.num_items,
            num_factors=self.num_factors,
            cohort_size=cohort_size,
            sampling=sampling,
            channel=channel,
            mesh=self.mesh,
        )

    def inexact(self) -> "Problem":
        """Let clients stop at a relative error of `INEXACT`; compiled programs stay the same."""
        return self._replace(model=self.model._replace(solve_tolerance=INEXACT))

    def start(
        self, federation: fcf.Federation, key: Key, item_factors: jax.Array | None = None
    ) -> fcf.ServerState:
        """Create the first state on the devices, with the given item factors or those drawn from the key."""
        state = federation.init(key)
        if item_factors is not None:
            state = state._replace(item_factors=item_factors)
        return state if self.mesh is None else fcf.parallel.place_state(state, self.mesh)

    def cohort_sum(self, item_factors: jax.Array, clients: fcf.PackedClients) -> fcf.CohortSum:
        """Sum what these clients send; clients and item factors may be traced."""
        return fcf.cohort_sum(self.model, item_factors, clients, mesh=self.mesh)[0]

    def loss(self) -> Callable[[Any], float]:
        """Return the function from item factors to min_X J(X, Y) on the training set."""
        summed = jax.jit(lambda item_factors, clients: self.cohort_sum(item_factors, clients).loss)

        def loss(item_factors: Any) -> float:
            on_host = np.asarray(item_factors)
            penalty = self.model.regularization * float((on_host**2).sum())
            return float(summed(on_host, self.clients) + penalty)

        return loss


def problem_of(
    train: fcf.Interactions, *, num_factors: int, mesh: Mesh | None = None, alpha: float = ALPHA
) -> Problem:
    """Pack the training set for these devices, with the model of all benchmarks."""
    clients = pack_on(mesh, partial(fcf.pack_clients, num_factors=num_factors), train)
    return Problem(default_model(alpha), clients, train.num_items, num_factors, mesh)


def pack_on(
    mesh: Mesh | None, pack: Callable[..., fcf.PackedClients], train: fcf.Interactions
) -> fcf.PackedClients:
    """Pack with `fcf.pack_clients` or `fcf.pack_items`, and place the result on the devices of `mesh`."""
    if mesh is None:
        return pack(train)
    return fcf.parallel.place_clients(pack(train, num_shares=mesh.shape["clients"]), mesh)


def use_all_cores() -> None:
    """Make each core of a CPU one device, unless JAX has already started."""
    with contextlib.suppress(ValueError):
        fcf.parallel.use_cpu_devices()


def use_devices(num_devices: int | None) -> None:
    """Make a CPU count as `num_devices` devices, by default one for each core."""
    try:
        fcf.parallel.use_cpu_devices(num_devices)
    except ValueError as error:
        if num_devices is not None and num_devices != jax.device_count():
            sys.exit(f"--num-devices: {error}")


def all_devices() -> Mesh | None:
    """Return the mesh of all devices; None if there is only one."""
    return fcf.parallel.client_mesh() if jax.device_count() > 1 else None


def train_item_factors(problem: Problem, *, num_rounds: int = 10) -> jax.Array:
    """Run rounds of everybody with the guarded Gram step, and return the item factors."""
    federation, key = problem.federation(GUARDED_GRAM), jax.random.key(0)
    state = problem.start(federation, key)
    return fcf.run_rounds(federation, key, state, problem.clients, num_rounds=num_rounds)[0].item_factors


class Rounds(NamedTuple):
    """Calls of a fixed number of rounds, each from the state where the previous call ended.

    Attributes:
        run: runs the rounds of one call.
        num_rounds: rounds in a call.
        plan_s: seconds for each round that it takes to find how many rows the cohorts need.
    """

    run: Callable[[], fcf.ServerState]
    num_rounds: int
    plan_s: float


def rounds_of(
    problem: Problem,
    federation: fcf.Federation,
    item_factors: jax.Array | None,
    *,
    num_rounds: int,
    num_calls: int,
) -> Rounds:
    """Prepare calls of `num_rounds` rounds; the cohorts of all `num_calls` calls share one program.

    Each call gives its state away to the next, as `fcf run` does.
    """
    key, planned = jax.random.key(0), num_rounds * num_calls
    own = None if item_factors is None else jnp.copy(item_factors)

    def plan() -> int:
        return cohort_rows(federation, key, carried[0], problem.clients, num_rounds=planned)

    carried = [problem.start(federation, key, own)]
    capacity = plan()
    plan_s = seconds_of(plan) / planned  # next to nothing for everybody

    def run() -> fcf.ServerState:
        carried[0], _ = fcf.run_rounds(
            federation,
            key,
            carried[0],
            problem.clients,
            num_rounds=num_rounds,
            row_capacity=capacity,
            donate=True,
        )
        return carried[0]

    return Rounds(run, num_rounds, plan_s)


def start_of(problem: Problem) -> jax.Array:
    """Draw the item factors that `federation.init` draws from key 0."""
    return draw_item_factors(jax.random.key(0), num_items=problem.num_items, num_factors=problem.num_factors)


def converge_als(problem: Problem, train: fcf.Interactions) -> tuple[jax.Array, list[float]]:
    """Run ALS to convergence from the item factors that `federation.init` draws from key 0.

    Returns:
        The item factors, and the loss before each sweep.
    """
    start = start_of(problem)
    items = pack_on(problem.mesh, partial(fcf.pack_items, num_factors=problem.num_factors), train)
    found, info = fcf.als.converge_als(problem.model, start, problem.clients, items, mesh=problem.mesh)
    return found, np.asarray(info.loss).tolist()
