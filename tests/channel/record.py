"""Figures of rounds behind each channel, recorded before clipping and noise were links.

`recorded.npz` was written by the code of commit 0d59e99 (`Mechanism` and `Accumulation` as arguments of
`federated_cf`), with the data, the numbers and the keys below; those under noise were written again when
noise became discrete. With sums of four normals in place of `noise.release`, and neither a grid nor what it
adds to the noise, the code of today still agrees with all figures that commit 10de1e5 holds, to 6e-6 of the
largest number of each. `python tests/channel/record.py` replaces
the file by figures of the present code, which is right only after a change that is meant to change them.
"""

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import optax
from jax import numpy as jnp

import fcf_jax as fcf
from fcf_jax.channel import FixedPoint, Pieces, adaptive_clip_and_noise, clip_and_noise, fixed_point
from fcf_jax.core.cohort_sum import accumulate

FILE = Path(__file__).with_name("recorded.npz")
KEY = jax.random.key(3)
NUM_FACTORS, NUM_ROUNDS = 5, 3
MODEL = fcf.Model(fcf.implicit_feedback(alpha=4.0), 0.7)
CLIP_NORMS = Pieces(20.0, 1.0, 30.0, 15.0)
FORMATS = Pieces(*(FixedPoint(bound, 12) for bound in (64.0, 32.0, 256.0, 2048.0)))
# so coarse that no number of a client of the small set is within 1e-4 of itself from the middle of two words
COARSE = Pieces(FixedPoint(64.0, 2), FixedPoint(32.0, 4), FixedPoint(256.0, 8), FixedPoint(2048.0, 3))


class Data(NamedTuple):
    """Clients, and item factors at which they are summed."""

    clients: fcf.PackedClients
    item_factors: jax.Array


def make_data(num_users: int, num_items: int, threshold: float, **packing: int) -> Data:
    """Draw tastes of rank 3, with one empty and one long history, by numbers that no version changes."""
    rng = np.random.default_rng(0)
    taste = rng.normal(size=(num_users, 3)) @ rng.normal(size=(3, num_items))
    seen = taste > threshold
    seen[3], seen[5, : num_items - 2] = False, True
    users, items = np.nonzero(seen)
    strengths = rng.integers(1, 6, seen.shape)[users, items].astype(float)
    interactions = fcf.Interactions.from_arrays(
        users, items, strengths, num_users=num_users, num_items=num_items
    )
    item_factors = jnp.asarray(rng.normal(size=(num_items, NUM_FACTORS)), jnp.float32)
    return Data(fcf.pack_clients(interactions, **packing), item_factors)


DATA = {
    "small": make_data(13, 17, 0.8, row_width=4, chunk_slots=32, chunk_clients=5),
    "large": make_data(200, 120, 2.5, row_width=8, chunk_slots=512, chunk_clients=40),
}


def channels(data: Data) -> dict[str, fcf.channel.Link | None]:
    """Build each channel for this data."""
    num_users, num_items = data.clients.row_counts.shape[0], data.item_factors.shape[0]
    rng = np.random.default_rng(1)
    weights = rng.uniform(0.2, 2.0, num_items).astype(np.float32) * (np.arange(num_items) % 3 > 0)
    noise = {"clip_norms": CLIP_NORMS, "noise_multiplier": 0.05, "expected_cohort_size": num_users}
    return {
        "plain": None,
        "static": clip_and_noise(**noise),
        "local": clip_and_noise(is_local=True, **noise | {"noise_multiplier": 0.01}),
        "weighted": clip_and_noise(item_weights=jnp.asarray(weights), **noise),
        "adaptive": adaptive_clip_and_noise(**noise),
        "weighted_adaptive": adaptive_clip_and_noise(item_weights=jnp.asarray(weights), **noise),
        "fixed_point": fixed_point(FORMATS, max_clients=num_users),
    }


def split(tree: object) -> dict[str, np.ndarray]:
    """Join all leaves: words, counts and ids as `whole`, real numbers as `real`."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    whole = [leaf.ravel().astype(np.int64) for leaf in leaves if leaf.dtype.kind in "iub"]
    real = [leaf.ravel() for leaf in leaves if leaf.dtype.kind == "f"]
    joined = {"whole": whole, "real": real}
    return {kind: np.concatenate(parts) for kind, parts in joined.items() if parts}


def summed(data: Data, channel: fcf.channel.Link) -> object:
    """Add up one cohort, and leave the total in words."""
    return jax.jit(lambda y, clients: accumulate(MODEL, y, clients, channel=channel)[0])(
        data.item_factors, data.clients
    )


RUNS = {  # the channel of each run, and its server step
    "small": [
        ("plain", "adam"), ("plain", "running_sums"), ("static", "adam"), ("local", "running_sums"),
        ("weighted", "running_sums"), ("adaptive", "adam"), ("weighted_adaptive", "running_sums"),
        ("fixed_point", "adam"),
    ],
    "large": [("weighted", "running_sums"), ("fixed_point", "running_sums")],
}  # fmt: skip
STEPS = {"adam": optax.adam(0.05), "running_sums": fcf.optimizers.running_sums()}


def figures() -> dict[str, np.ndarray]:
    """Compute all figures: a total in coarse words, and runs, whose states hold sums."""
    trees = {"small/words/total": summed(DATA["small"], fixed_point(COARSE, max_clients=13))}
    for data_name, runs in RUNS.items():
        for channel_name, step_name in runs:
            run = _run(DATA[data_name], channel_name, step_name)
            trees |= {f"{data_name}/{channel_name}/{step_name}/{part}": run[part] for part in run}
    return {f"{name}/{kind}": part for name, tree in trees.items() for kind, part in split(tree).items()}


def _run(data: Data, channel: str, step: str) -> dict[str, object]:
    num_items = data.item_factors.shape[0]
    federation = fcf.federated_cf(
        MODEL, STEPS[step], channel=channels(data)[channel], num_items=num_items, num_factors=NUM_FACTORS
    )
    state, info = fcf.run_rounds(federation, KEY, federation.init(KEY), data.clients, num_rounds=NUM_ROUNDS)
    info = info._replace(solve_error=(), num_left_out=())  # rounding itself, and 0
    run = {"info": info, "item_factors": state.item_factors, "state": state._replace(item_factors=())}
    return run if data is DATA["small"] else {name: run[name] for name in ("info", "item_factors")}


if __name__ == "__main__":
    np.savez_compressed(FILE, **figures())
