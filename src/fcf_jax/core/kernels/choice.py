"""The choice between kernels and plain XLA, made when a program is lowered: one trace serves all platforms.

Kernels serve full rounds on one NVIDIA GPU. Plain XLA is what they are checked against, and serves all else.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any

import jax
import jax.core
from jax import numpy as jnp
from jaxtyping import Array

from fcf_jax.core.kernels.plans import MOST_FACTORS, Plan, plan_of
from fcf_jax.core.kernels.remarks import on_gpu, remark_on_kernels
from fcf_jax.core.objective import extra_confidence, observe
from fcf_jax.core.records import Model, PackedClients

MOST_CONFIDENCE = 1e4  # (c - w0) / w0 that corrections in a kernel can still make exact

INTERPRETED = jax.make_user_context(False)  # True runs kernels in the interpreter, on any platform


def choose(by_kernels: Callable, plain: Callable, *arguments: Any) -> Any:
    """Compute `by_kernels(plan, *arguments)` on a GPU for which they work, else `plain(*arguments)`.

    Derivatives are those of `plain`.

    Args:
        by_kernels: (plan, model, factors, clients, ...) -> result.
        plain: (model, factors, clients, ...) -> the same.
        arguments: model, factors and clients, and whatever else.
    """
    model, factors, clients, *_ = arguments
    plan = _plan_for(model, factors, clients)
    return plain(*arguments) if plan is None else _either(partial(by_kernels, plan), plain, *arguments)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _either(by_kernels: Callable, plain: Callable, *arguments: Any) -> Any:
    if INTERPRETED.value:
        return by_kernels(*arguments)
    return jax.lax.platform_dependent(*arguments, cuda=by_kernels, default=plain)


@_either.defjvp
def _either_jvp(by_kernels: Callable, plain: Callable, primals: tuple, tangents: tuple) -> tuple:
    return jax.jvp(plain, primals, tangents)


def suited(model: Model, clients: PackedClients) -> PackedClients:
    """Return the clients, without their items if confidences are too heavy for the kernels.

    Decided on the host, for what is not traced.
    """
    leaves = jax.tree.leaves((model, clients.rows))
    if clients.items is None or any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return clients
    with jax.ensure_compile_time_eval():
        most = float(_most_confidence(model, clients.rows))
    if most <= MOST_CONFIDENCE:
        return clients
    remark_on_kernels(
        f"the largest (c - w0) / w0 is {most:.3g}, and they are exact up to {MOST_CONFIDENCE:g}"
    )
    return clients._replace(items=None)


def remark_on_features(clients: PackedClients) -> None:
    """Log that clients with features are computed without kernels."""
    if clients.items is not None:
        remark_on_kernels("they solve without a prior mean, got clients with features")


@jax.jit
def _most_confidence(model: Model, rows: Any) -> Array:
    return jnp.max(extra_confidence(model, observe(model, rows))) / model.unobserved_weight


def _plan_for(model: Model, factors: Any, clients: PackedClients) -> Plan | None:
    """Return the sizes of the kernels for these clients; None where there are none."""
    if clients.items is None:
        return None
    obstacle = obstacle_to(factors.shape[1], jnp.result_type(factors))
    if model.regularization_exponent is not None:
        obstacle = "they solve with one lambda for all, got a regularization_exponent"
    if model.objective is not None or model.biases is not None:
        obstacle = "they know squared errors without biases"
    if obstacle is not None:
        remark_on_kernels(obstacle)
        return None
    return plan_of(factors.shape[1], is_interpreted=INTERPRETED.value)


def obstacle_to(num_factors: int, dtype: Any) -> str | None:
    """Return why kernels cannot compute with so many factors of this type on the default device, or None."""
    if num_factors > MOST_FACTORS:
        return f"they serve up to {MOST_FACTORS} factors, got {num_factors}"
    if dtype != jnp.float32:
        return f"they compute in float32, got {dtype}"
    # elsewhere the program may be compiled for a GPU, but not run
    return _failure(plan_of(num_factors, is_interpreted=False)) if on_gpu() else None


@cache
def _failure(plan: Plan) -> str | None:
    """Try the kernels on a small problem; return what is wrong with them.

    In a thread of its own: what is being traced in this one does not reach there.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_failure_here, plan).result()


def _failure_here(plan: Plan) -> str | None:
    from fcf_jax.core.kernels.trial import error_of_trial

    try:
        error = error_of_trial(plan)
    except Exception as failure:  # whatever a compiler may say
        lines = str(failure).splitlines() or [""]
        return f"compiling them failed: {type(failure).__name__}: {lines[0][:200]}"
    return None if error <= 1e-4 else f"their error on a small problem is {error:.1e}"
