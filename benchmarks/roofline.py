"""Roofline of the device: copy bandwidth, rate of exact float32 products, and the least work of a round.

Products are taken with precision "highest". The roofline ratio of a round is the time that its least work
would take at the measured rates, divided by the time measured. Least work of a full round, with s steps of
conjugate gradients, s = 10:

    bytes = 9 nnz + 12 K nnz + 12 K M      ids, strengths and mask once; a factor gathered and a row
                                           of F read and written for each interaction; Y and F
    FLOPs = (4 s + 4) K nnz + 2 s K^2 N    products with a client's rows and with the shared matrix

Caches may serve gathers, so ratios above 1 are possible. A direct solver would need K^2 nnz + K^3 N / 3 FLOPs
instead, reported as flops_direct.
"""

from typing import Any

import jax
from common import measure
from jax import numpy as jnp

STEPS = 10


def rates(*, num_copied: int, matrix_size: int, repeats: int) -> dict[str, Any]:
    """Measure what the device can do at best.

    Args:
        num_copied: float32 numbers of the array that is copied.
        matrix_size: rows and columns of the matrices that are multiplied.
        repeats: timed calls.
    """
    values, matrix = jnp.zeros(num_copied), jnp.ones((matrix_size, matrix_size))
    copy = jax.jit(lambda values: values + 1.0)
    multiply = jax.jit(lambda matrix: jnp.matmul(matrix, matrix, precision="highest"))
    timings = measure({"copy": lambda: copy(values), "product": lambda: multiply(matrix)}, repeats=repeats)
    return {
        "copy_bytes_per_s": 8.0 * num_copied / timings["copy"].median_s,
        "product_flops_per_s": 2.0 * matrix_size**3 / timings["product"].median_s,
        "timings": {name: timing.to_dict() for name, timing in timings.items()},
    }


def least_work(
    *, num_users: int, num_items: int, num_factors: int, num_interactions: int
) -> dict[str, float]:
    """Count the least work of a full round, as the docstring of this file says."""
    k, nnz = float(num_factors), num_interactions
    return {
        "bytes": 9.0 * nnz + 12.0 * k * (nnz + num_items),
        "flops": (4.0 * STEPS + 4.0) * k * nnz + 2.0 * STEPS * k**2 * num_users,
        "flops_direct": k**2 * nnz + k**3 * num_users / 3,
    }


def against_roof(seconds: float, work: dict[str, float], rates: dict[str, Any]) -> dict[str, float]:
    """Divide the least time by the time measured."""
    least_s = {
        "bytes_s": work["bytes"] / rates["copy_bytes_per_s"],
        "flops_s": work["flops"] / rates["product_flops_per_s"],
    }
    return least_s | {"roofline_ratio": max(least_s.values()) / seconds}
