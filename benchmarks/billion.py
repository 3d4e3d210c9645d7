"""Time of a full round of 10 M clients x 100 k items x 1 G interactions, K = 32, on one GPU.

The clients are resident if the device's memory allows, else streamed; a tenth of them is streamed from host
memory in any case. Their rows are drawn on the device, not simulated: every chunk has the same long-tailed
history lengths (whole rows), items follow a power law, and a history may name an item twice. Rounds end with
the guarded Gram step and start from item factors trained for a few rounds.

    python benchmarks/billion.py --out billion.json
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from common import Shape, Timing, argument_parser, machine, measure, positive, publish
from jax import numpy as jnp
from problem import GUARDED_GRAM, Problem, default_model
from roofline import against_roof, least_work, rates

import fcf_jax as fcf

BILLION = Shape(10_000_000, 100_000, 100.0)
TRAINING_ROUNDS, BLOCK = 5, 3
FITS = 0.6  # of the free memory, for the clients
NUM_BLOCKS = 16  # of clients that are streamed


class Round(NamedTuple):
    """A compiled full round that starts from the state where the last one ended.

    Attributes:
        run: runs BLOCK rounds.
        compile_s: seconds of compiling.
        cost: FLOPs and bytes by XLA's cost_analysis, which counts a loop once: one chunk and one step.
    """

    run: Callable[[], fcf.ServerState]
    compile_s: float
    cost: dict[str, float]


def full_round(problem: Problem) -> Round:
    """Compile a round with the guarded Gram step, and train for a few rounds."""
    federation, key = problem.federation(GUARDED_GRAM), jax.random.key(0)
    state = problem.start(federation, key)
    start = time.perf_counter()
    compiled = jax.jit(federation.round).lower(key, state, problem.clients).compile()
    compile_s = time.perf_counter() - start
    carried = [state]

    def run(num_rounds: int = BLOCK) -> fcf.ServerState:
        for _ in range(num_rounds):
            carried[0], _ = compiled(key, carried[0], problem.clients)
        return carried[0]

    jax.block_until_ready(run(TRAINING_ROUNDS))
    cost = compiled.cost_analysis() or {}
    return Round(run, compile_s, {name: cost.get(name, 0.0) for name in ("flops", "bytes accessed")})


def time_round(one: Round, *, repeats: int) -> Timing:
    """Time one round, in calls of BLOCK rounds."""
    return measure({"round": one.run}, repeats=repeats)["round"].per(BLOCK)


def drawn_clients(shape: Shape, *, chunk_clients: int, row_width: int = 32) -> fcf.PackedClients:
    """Draw packed rows on the default device, without histories on the host; every chunk is full."""
    rng = np.random.default_rng(0)
    counts = np.ceil(rng.lognormal(0.0, 1.0, chunk_clients) * shape.mean_history / row_width / np.exp(0.5))
    counts = trim(counts.astype(np.int64), round(chunk_clients * shape.mean_history / row_width))
    num_chunks = -(-shape.num_users // chunk_clients)
    owners = np.repeat(np.arange(chunk_clients, dtype=np.int32), counts)
    first = np.cumsum(counts) - counts + owners.size * np.arange(num_chunks)[:, None]

    @jax.jit
    def draw(key):
        def draw_chunk(item_counts, key):
            places = jax.random.uniform(key, (owners.size, row_width))
            item_ids = jnp.minimum((shape.num_items * places**3).astype(jnp.int32), shape.num_items - 1)
            return item_counts.at[item_ids].add(1), item_ids

        none = jnp.zeros(shape.num_items, jnp.int32)
        item_counts, item_ids = jax.lax.scan(draw_chunk, none, jax.random.split(key, num_chunks))
        return fcf.ClientData(item_ids, jnp.ones(item_ids.shape), jnp.ones(item_ids.shape, bool)), item_counts

    rows, item_counts = draw(jax.random.key(0))
    num_users = num_chunks * chunk_clients
    return fcf.PackedClients(
        rows=rows,
        owners=jnp.asarray(np.broadcast_to(owners, (num_chunks, owners.size))),
        client_ids=jnp.arange(num_users, dtype=jnp.int32).reshape(num_chunks, chunk_clients),
        first_row=jnp.asarray(first.ravel(), jnp.int32),
        row_counts=jnp.asarray(np.tile(counts, num_chunks), jnp.int32),
        item_counts=item_counts,
    )


def trim(counts: np.ndarray, total: int) -> np.ndarray:
    """Take rows off the longest histories, or give rows to the first ones, until they sum to `total`."""
    counts = counts.copy()
    while counts.sum() > total and counts.max() > 1:
        longest = counts == counts.max()
        counts[np.flatnonzero(longest)[: counts.sum() - total]] -= 1
    counts[: max(total - counts.sum(), 0)] += 1
    return counts


def time_billion(
    shape: Shape, *, num_factors: int, chunk_slots: int, rates: dict[str, Any], repeats: int
) -> dict[str, Any]:
    """Time a full round, resident if it fits, and one streamed."""
    chunk_clients = max(chunk_slots // round(shape.mean_history), 1)
    needed = 9.0 * shape.num_users * shape.mean_history
    is_resident = needed < FITS * free_memory()
    outcome: dict[str, Any] = {"is_resident": is_resident, "bytes_of_clients": needed}
    if is_resident:
        clients = drawn_clients(shape, chunk_clients=chunk_clients)
        problem = Problem(default_model(), clients, shape.num_items, num_factors)
        outcome |= time_resident(problem, rates=rates, repeats=repeats)
        del clients, problem
        shape = shape._replace(num_users=shape.num_users // 10)
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        clients = jax.block_until_ready(drawn_clients(shape, chunk_clients=chunk_clients))
    problem = Problem(default_model(), clients, shape.num_items, num_factors)
    return outcome | {"streamed": time_streamed(problem, repeats=repeats)}


def time_resident(problem: Problem, *, rates: dict[str, Any], repeats: int) -> dict[str, Any]:
    """Time full rounds whose clients lie on the device."""
    num_interactions, num_users = problem.clients.rows.mask.size, problem.clients.row_counts.size
    one = full_round(problem)
    warm = time_round(one, repeats=repeats)
    work = least_work(
        num_users=num_users,
        num_items=problem.num_items,
        num_factors=problem.num_factors,
        num_interactions=num_interactions,
    )
    return {
        "num_users": num_users,
        "num_interactions": num_interactions,
        "round_s": warm.to_dict(),
        "compile_s": one.compile_s,
        "least_work": work,
        "counted_by_xla": one.cost,
        **against_roof(warm.median_s, work, rates),
    }


def time_streamed(problem: Problem, *, repeats: int) -> dict[str, Any]:
    """Time full rounds whose clients come from host memory, block by block."""
    federation, key = problem.federation(GUARDED_GRAM), jax.random.key(0)
    carried, clients = [problem.start(federation, key)], problem.clients
    num_chunks = clients.owners.shape[0]
    block_chunks = max(num_chunks // NUM_BLOCKS, 1)

    def run() -> fcf.ServerState:
        carried[0], _ = fcf.parallel.run_rounds_streamed(
            federation, key, carried[0], clients, num_rounds=1, block_chunks=block_chunks
        )
        return carried[0]

    for _ in range(TRAINING_ROUNDS - 1):
        run()
    warm = measure({"round": run}, repeats=repeats)["round"]
    moved = sum(leaf.nbytes for leaf in jax.tree.leaves((clients.rows, clients.owners, clients.client_ids)))
    return {
        "num_users": clients.row_counts.size,
        "num_interactions": clients.rows.mask.size,
        "blocks": -(-num_chunks // block_chunks),
        "round_s": warm.to_dict(),
        "bytes_moved": moved,
        "bytes_per_s": moved / warm.median_s,
    }


def free_memory() -> float:
    """Return the bytes that the device has left."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return float(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    return float(machine()["memory_bytes"] or 0)


def main() -> None:
    parser = argument_parser(__doc__, repeats=5)
    parser.add_argument("--num-users", type=positive, default=BILLION.num_users)
    parser.add_argument("--num-items", type=positive, default=BILLION.num_items)
    parser.add_argument("--num-factors", type=positive, default=32)
    parser.add_argument("--chunk-slots", type=positive, default=2**20)
    arguments = parser.parse_args()
    shape = Shape(arguments.num_users, arguments.num_items, BILLION.mean_history)
    found = time_billion(
        shape,
        num_factors=arguments.num_factors,
        chunk_slots=arguments.chunk_slots,
        rates=rates(num_copied=2**26, matrix_size=2048, repeats=arguments.repeats),
        repeats=arguments.repeats,
    )
    publish(found, arguments.out)
    if found["is_resident"]:
        print(f"{found['num_users']} clients resident: {found['round_s']['median_s']:.4g} s a round")
    streamed = found["streamed"]
    print(f"{streamed['num_users']} clients streamed: {streamed['round_s']['median_s']:.4g} s a round")


if __name__ == "__main__":
    main()
