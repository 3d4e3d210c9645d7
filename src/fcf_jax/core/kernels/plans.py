"""Sizes of kernels by number of factors."""

from typing import NamedTuple

from fcf_jax.core.kernels.launch import Launch

LEAST_FACTORS = 16  # of a tensor core's product
MOST_FACTORS = 128  # beyond, a client's matrix does not fit into registers


class Plan(NamedTuple):
    """How the kernels of a round are compiled.

    Attributes:
        num_factors: factors with padding, a power of two.
        clients: launch of the client solve.
        items: launch of the item sums.
        is_chebyshev: whether light clients are solved by Chebyshev's iteration.
    """

    num_factors: int
    clients: Launch
    items: Launch
    is_chebyshev: bool = True


PLANS = {  # tile and warps; by registers, of which none is spilled
    16: Plan(16, Launch(32, 1), Launch(64, 1)),
    32: Plan(32, Launch(32, 2), Launch(64, 2)),
    64: Plan(64, Launch(32, 4), Launch(32, 2)),
    128: Plan(128, Launch(16, 8), Launch(32, 4)),
}


def plan_of(num_factors: int, *, is_interpreted: bool) -> Plan:
    """Choose the sizes for K, at most `MOST_FACTORS`."""
    plan = PLANS[min(size for size in PLANS if size >= num_factors)]
    clients, items = (launch._replace(is_interpreted=is_interpreted) for launch in (plan.clients, plan.items))
    return plan._replace(clients=clients, items=items)
