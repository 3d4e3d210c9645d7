"""Diagnosis of the machine: versions, devices, and the accuracy of the solver on them."""

import platform
import time
from importlib import metadata
from typing import NamedTuple

import jax
import numpy as np
from jax import numpy as jnp

from fcf_jax.core.kernels.choice import obstacle_to
from fcf_jax.core.kernels.remarks import on_gpu, slow_scatters
from fcf_jax.core.objective import gram, implicit_feedback
from fcf_jax.core.records import Model, Observations
from fcf_jax.core.solve import solve_user_factor
from fcf_jax.parallel.mesh import num_usable_cores

_USERS, _ITEMS, _FACTORS, _SLOTS = 512, 2000, 25, 32
_TOLERANCE = 5e-5  # float32; what the package promises for alpha r up to 1e4


class Diagnosis(NamedTuple):
    """Facts about the machine.

    Attributes:
        facts: values by name, in the order to print.
        is_healthy: whether the solver is accurate here.
    """

    facts: dict[str, str]
    is_healthy: bool


def diagnose() -> Diagnosis:
    """Collect versions and the devices that a run uses, and try the solver."""
    error, seconds = _solver_error()
    facts = {"python": platform.python_version()}
    facts |= {name: metadata.version(name) for name in ("jax", "jaxlib", "optax", "numpy")}
    facts |= {
        "devices": ", ".join(f"{device} ({device.device_kind})" for device in jax.devices()),
        "cores": str(num_usable_cores()),
        "default precision": str(getattr(jax.config, "jax_default_matmul_precision", None) or "backend's own")
        + "; Gram matrices and solves use highest",
        "batched solve": f"{_USERS} users of {_FACTORS} factors in {1e3 * seconds:.2f} ms",
        "error to float64": f"{error:.1e} ({'fine' if error < _TOLERANCE else 'TOO LARGE'})",
    }
    if on_gpu():
        obstacle = obstacle_to(_FACTORS, jnp.dtype(jnp.float32))
        facts["GPU kernels"] = "in use for full rounds" if obstacle is None else f"not in use: {obstacle}"
        facts["GPU scatters"] = slow_scatters() or "fine"
    return Diagnosis(facts, error < _TOLERANCE)


def _solver_error() -> tuple[float, float]:
    """Return the largest relative error of user factors to NumPy in float64, and the seconds of the batch."""
    rng = np.random.default_rng(0)
    item_factors = 0.3 * rng.standard_normal((_ITEMS, _FACTORS)).astype(np.float32)
    item_ids = np.stack([rng.choice(_ITEMS, _SLOTS, replace=False) for _ in range(_USERS)])
    confidence = 1 + 4 * rng.integers(1, 6, (_USERS, _SLOTS)).astype(np.float32)
    ones = np.ones_like(confidence)
    observations = Observations(
        item_ids=jnp.asarray(item_ids, jnp.int32),
        confidence=jnp.asarray(confidence),
        preference=jnp.asarray(ones),
        mask=jnp.asarray(ones, bool),
    )
    factors = jnp.asarray(item_factors)

    @jax.jit
    def solve(item_factors: jax.Array, observations: Observations) -> jax.Array:
        item_gram, model = gram(item_factors), Model(implicit_feedback(alpha=4.0), regularization=1.0)
        return jax.vmap(lambda one: solve_user_factor(model, item_factors, one, item_gram))(observations)

    jax.block_until_ready(solve(factors, observations))
    started = time.perf_counter()
    solved = np.asarray(jax.block_until_ready(solve(factors, observations)))
    seconds = time.perf_counter() - started
    exact = _reference(item_factors.astype(np.float64), item_ids, confidence.astype(np.float64))
    errors = np.linalg.norm(solved - exact, axis=1) / np.linalg.norm(exact, axis=1)
    return float(errors.max()), seconds


def _reference(item_factors: np.ndarray, item_ids: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    observed = item_factors[item_ids]  # [users, slots, factors]
    matrices = item_factors.T @ item_factors + np.eye(_FACTORS)
    matrices = matrices + np.einsum("us,usk,usl->ukl", confidence - 1, observed, observed)
    return np.linalg.solve(matrices, np.einsum("us,usk->uk", confidence, observed)[..., None])[..., 0]
