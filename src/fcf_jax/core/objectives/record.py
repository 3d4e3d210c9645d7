"""Record that an objective fills in: the loss of one observed score, with two derivatives."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from jax.tree_util import register_dataclass
from jaxtyping import Array, Float

Pointwise = Callable[[Float[Array, "..."], Float[Array, "..."]], Float[Array, "..."]]  # (p, s) -> a number


@partial(
    register_dataclass,
    data_fields=[],
    meta_fields=["name", "loss", "residual", "curvature", "is_pairwise"],
)
@dataclass(frozen=True)
class Objective:
    r"""Loss d(p, s) of a preference p and a score s.

    A client minimizes \sum_i c_i d(p_i, s_i) + lambda |x|^2. The loss is convex in s, and |d'''| <= d'' for
    its derivatives by s, which the damping of `core.newton` rests on. Squared errors, d = (p - s)^2, need no
    record.

    Attributes:
        name: as a configuration calls it.
        loss: d(p, s).
        residual: -1/2 dd/ds, in place of p - s.
        curvature: 1/2 d^2 d / ds^2, in place of 1; at least 0.
        is_pairwise: whether a score is the difference between an observed item and a negative,
            `ClientData.negative_ids`.
    """

    name: str
    loss: Pointwise
    residual: Pointwise
    curvature: Pointwise
    is_pairwise: bool = False
