"""Pieces of gpu.py: what each measures, at full or at toy size."""

from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from common import MOVIELENS_1M, MOVIELENS_20M, MOVIELENS_100K, Shape, Timing, measure, ratio
from drawn import drawn_clients, drawn_interactions, with_items
from jax import numpy as jnp
from problem import (
    ADAM,
    ALPHA,
    GUARDED_GRAM,
    REGULARIZATION,
    Problem,
    default_model,
    rounds_of,
    train_item_factors,
)
from roofline import least_work, rates

import fcf_jax as fcf
from fcf_jax.core.kernels.choice import INTERPRETED
from fcf_jax.core.packing import padding_factor

BLOCK = 3  # full rounds in a call
NUM_BLOCKS = 16  # of clients that are streamed


class Sizes(NamedTuple):
    """Sizes of all pieces."""

    agreement: Shape = Shape(300, 120, 15.0)
    movielens_20m: Shape = MOVIELENS_20M
    movielens_1m: Shape = MOVIELENS_1M
    movielens_100k: Shape = MOVIELENS_100K
    billion: Shape = Shape(10_000_000, 100_000, 100.0)
    streamed: Shape = Shape(1_000_000, 100_000, 100.0)
    large_factors: int = 64
    billion_factors: int = 32
    small_factors: int = 25
    cohort_size: int = 1000
    cohort_rounds: int = 200
    chunk_slots: tuple[int, ...] = (2**20, 2**18)
    num_copied: int = 2**28
    matrix_size: int = 8192


SMALL = Sizes(
    agreement=Shape(30, 40, 6.0),
    movielens_20m=Shape(300, 100, 12.0),
    movielens_1m=Shape(200, 80, 10.0),
    movielens_100k=Shape(100, 60, 10.0),
    billion=Shape(2000, 200, 32.0),
    streamed=Shape(500, 200, 32.0),
    large_factors=8,
    billion_factors=8,
    small_factors=8,
    cohort_size=20,
    cohort_rounds=5,
    chunk_slots=(2**12, 2**10),
    num_copied=2**20,
    matrix_size=256,
)


def card(sizes: Sizes, repeats: int) -> dict[str, Any]:
    """Measure what the device can do at best."""
    return rates(num_copied=sizes.num_copied, matrix_size=sizes.matrix_size, repeats=repeats)


def agreement(sizes: Sizes, repeats: int) -> dict[str, Any]:
    """Compare F by kernels, by XLA and on the CPU with float64, and the kernels with their own second run."""
    interactions = drawn_interactions(sizes.agreement)
    problem = pack(interactions, 16, chunk_slots=2**12, by_item=True)
    item_factors = problem.federation(optax.sgd(0.1)).init(jax.random.key(0)).item_factors
    exact = dense_upload(np.asarray(item_factors, np.float64), interactions)
    here, cpu = jax.local_devices()[0], jax.local_devices(backend="cpu")[0]
    upload = jax.jit(lambda item_factors, clients: problem.cohort_sum(item_factors, clients).upload)

    def upload_on(device: Any, clients: fcf.PackedClients) -> np.ndarray:
        return np.asarray(upload(*jax.device_put((item_factors, clients), device)), np.float64)

    bare = problem.clients._replace(items=None)
    found = {"xla": upload_on(here, bare), "cpu": upload_on(cpu, bare)}
    with INTERPRETED(jax.default_backend() != "gpu"):  # where there is no GPU for the kernels
        found["kernels"], again = (upload_on(here, problem.clients) for _ in range(2))
    size = np.linalg.norm(exact)
    errors = {f"{name}_to_float64": float(np.linalg.norm(one - exact) / size) for name, one in found.items()}
    return errors | {"kernels_are_identical": bool((found["kernels"] == again).all())}


def device_peak_bytes() -> int | None:
    """Return the most memory of the device that was in use so far; None on a CPU."""
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def dense_upload(item_factors: np.ndarray, interactions: fcf.Interactions) -> np.ndarray:
    """Compute F = sum_u e_u x_u^T from dense matrices."""
    strengths = np.zeros((interactions.num_users, interactions.num_items))
    users = np.repeat(np.arange(interactions.num_users), np.diff(interactions.indptr))
    strengths[users, interactions.item_ids] = interactions.strengths
    confidence, preference = 1.0 + ALPHA * strengths, (strengths > 0).astype(np.float64)
    ridge = REGULARIZATION * np.eye(item_factors.shape[1])
    matrices = np.einsum("ui,ik,il->ukl", confidence, item_factors, item_factors) + ridge
    right = (confidence * preference) @ item_factors
    solved = np.linalg.solve(matrices, right[..., None])[..., 0]
    return (confidence * (preference - solved @ item_factors.T)).T @ solved


def pack(
    interactions: fcf.Interactions,
    num_factors: int,
    *,
    chunk_slots: int,
    chunk_clients: int | None = None,
    by_item: bool | None = None,
) -> Problem:
    """Pack into few large chunks, as suits a GPU; by item too, for the kernels, unless told not to."""
    clients = fcf.pack_clients(
        interactions,
        chunk_slots=chunk_slots,
        chunk_clients=chunk_clients or max(chunk_slots // 16, 1),
        by_item=by_item,
    )
    return Problem(default_model(), clients, interactions.num_items, num_factors)


def full_rounds(problem: Problem, *, repeats: int) -> tuple[Timing, float]:
    """Time a full round with the guarded Gram step from item factors trained for two calls.

    Returns:
        The timing of a round, and the seconds of the first call above a warm one.
    """
    run = rounds_of(
        problem, problem.federation(GUARDED_GRAM), None, num_rounds=BLOCK, num_calls=repeats + 2
    ).run
    first = measure({"rounds": run}, repeats=1)["rounds"]
    return measure({"rounds": run}, repeats=repeats)["rounds"].per(BLOCK), first.compile_s


def movielens_20m(
    sizes: Sizes, repeats: int, *, chunk: int = 0, by_item: bool | None = None
) -> dict[str, Any]:
    """Time a full round, by kernels where they work unless `by_item` is False.

    Chunks, of the size at this place of `sizes.chunk_slots`, matter for XLA alone.
    """
    interactions = drawn_interactions(sizes.movielens_20m)
    chunk_slots = sizes.chunk_slots[chunk]
    problem = pack(interactions, sizes.large_factors, chunk_slots=chunk_slots, by_item=by_item)
    timing, compile_s = full_rounds(problem, repeats=repeats)
    inexact, _ = full_rounds(problem.inexact(), repeats=repeats)
    return {
        "inexact_round_s": inexact.to_dict(),
        "chunk_slots": chunk_slots,
        "padding_factor": padding_factor(problem.clients),
        **described(problem, timing, interactions.num_interactions),
        "compile_s": compile_s,
    }


def described(problem: Problem, timing: Timing, num_interactions: int) -> dict[str, Any]:
    """Return the time of a full round and the work that is in it."""
    num_users = problem.clients.row_counts.size
    return {
        "num_users": num_users,
        "num_interactions": num_interactions,
        "round_s": timing.to_dict(),
        "clients_per_s": num_users / timing.median_s,
        "least_work": least_work(
            num_users=num_users,
            num_items=problem.num_items,
            num_factors=problem.num_factors,
            num_interactions=num_interactions,
        ),
    }


def determinism(sizes: Sizes, repeats: int) -> dict[str, Any]:
    """Run the same rounds twice and compare bit by bit."""
    interactions = drawn_interactions(sizes.movielens_1m)
    problem = pack(interactions, sizes.small_factors, chunk_slots=2**18)
    federation, key = problem.federation(GUARDED_GRAM), jax.random.key(0)

    def item_factors() -> np.ndarray:
        state = problem.start(federation, key)
        return np.asarray(
            fcf.run_rounds(federation, key, state, problem.clients, num_rounds=BLOCK)[0].item_factors
        )

    first, second = item_factors(), item_factors()
    return {
        "is_identical": bool((first == second).all()),
        "elements_that_differ": int((first != second).sum()),
        "largest_difference": float(np.abs(first - second).max() / np.abs(first).max()),
    }


def cohort(sizes: Sizes, repeats: int) -> dict[str, Any]:
    """Time rounds of sampled clients, many in one program."""
    interactions = drawn_interactions(sizes.movielens_1m)
    problem = pack(interactions, sizes.small_factors, chunk_slots=2**18, chunk_clients=sizes.cohort_size)
    rounds = rounds_of(
        problem,
        problem.federation(ADAM, cohort_size=sizes.cohort_size),
        train_item_factors(problem),
        num_rounds=sizes.cohort_rounds,
        num_calls=repeats + 1,
    )
    warm = measure({"rounds": rounds.run}, repeats=repeats)["rounds"].per(sizes.cohort_rounds)
    seconds = warm.median_s + rounds.plan_s
    return {
        "cohort_size": sizes.cohort_size,
        "rounds_per_s": 1 / seconds,
        "clients_per_s": sizes.cohort_size / seconds,
        "round_s": warm.to_dict(),
        "plan_s": rounds.plan_s,
    }


def side_by_side(sizes: Sizes, repeats: int) -> dict[str, Any]:
    """Time 8 federations in one program against one."""
    interactions = drawn_interactions(sizes.movielens_100k)
    problem = pack(interactions, sizes.small_factors, chunk_slots=2**18)
    keys, unused = jax.random.split(jax.random.key(0), 8), jnp.zeros(8)

    def make(unused: jax.Array) -> fcf.Federation:
        del unused
        return problem.federation(GUARDED_GRAM)

    def run(num_runs: int) -> Any:
        return fcf.parallel.run_side_by_side(
            make, keys[:num_runs], unused[:num_runs], problem.clients, num_rounds=10
        )

    timings = measure({"one": lambda: run(1), "eight": lambda: run(8)}, repeats=repeats)
    return {
        "eight / one": ratio(timings["eight"], timings["one"])._asdict(),
        "timings": {name: timing.to_dict() for name, timing in timings.items()},
    }


def billion(sizes: Sizes, repeats: int, *, by_item: bool = True) -> dict[str, Any]:
    """Time a full round of the largest data, drawn on the device."""
    chunk_clients = max(sizes.chunk_slots[0] // round(sizes.billion.mean_history), 1)
    clients = drawn_clients(sizes.billion, chunk_clients=chunk_clients)
    clients = with_items(clients) if by_item else clients
    problem = Problem(default_model(), clients, sizes.billion.num_items, sizes.billion_factors)
    timing, compile_s = full_rounds(problem, repeats=repeats)
    return {**described(problem, timing, clients.rows.mask.size), "compile_s": compile_s}


def streamed(sizes: Sizes, repeats: int) -> dict[str, Any]:
    """Time full rounds whose clients come from host memory, block by block."""
    chunk_clients = max(sizes.chunk_slots[0] // round(sizes.streamed.mean_history), 1)
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        clients = jax.block_until_ready(drawn_clients(sizes.streamed, chunk_clients=chunk_clients))
    problem = Problem(default_model(), clients, sizes.streamed.num_items, sizes.billion_factors)
    federation, key = problem.federation(GUARDED_GRAM), jax.random.key(0)
    carried = [problem.start(federation, key)]
    block_chunks = max(clients.owners.shape[0] // NUM_BLOCKS, 1)

    def run() -> fcf.ServerState:
        carried[0], _ = fcf.parallel.run_rounds_streamed(
            federation, key, carried[0], clients, num_rounds=1, block_chunks=block_chunks
        )
        return carried[0]

    timing = measure({"round": run}, repeats=repeats)["round"]
    moved = sum(leaf.nbytes for leaf in jax.tree.leaves((clients.rows, clients.owners, clients.client_ids)))
    return {
        **described(problem, timing, clients.rows.mask.size),
        "blocks": -(-clients.owners.shape[0] // block_chunks),
        "bytes_moved": moved,
        "bytes_per_s": moved / timing.median_s,
    }
