"""The channel of an experiment: one row for each link, in the order in which uploads pass them.

A new link is a new row of `CHANNEL_ROWS`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from fcf_jax.channel import Link, chain, dropouts, fixed_point, void_below
from fcf_jax.experiments.build.compression import (
    changes_rows,
    chooses_items,
    compressed_rows,
    rounded_items,
    rounds_items,
    subset_of_items,
)

if TYPE_CHECKING:
    from fcf_jax.experiments.build.problem import Problem


class Wanted(NamedTuple):
    """What links are built from.

    Attributes:
        problem: as resolved.
        item_weights: from released item counts, for clipping and noise; None: all 1.
    """

    problem: "Problem"
    item_weights: Float[np.ndarray, "items"] | None = None


class ChannelRow(NamedTuple):
    """A link that a configuration may ask for.

    Attributes:
        name: in reports.
        is_on: whether it does.
        build: builds the link.
    """

    name: str
    is_on: Callable[["Problem"], bool]
    build: Callable[[Wanted], Link]


def channel_of(problem: "Problem", item_weights: Float[np.ndarray, "items"] | None = None) -> Link | None:
    """Chain the links that the configuration asks for; None if there are none."""
    wanted = Wanted(problem, item_weights)
    links = [row.build(wanted) for row in CHANNEL_ROWS if row.is_on(problem)]
    return chain(*links) if links else None


def _protection(wanted: Wanted) -> Link:
    assert wanted.problem.protection is not None
    return wanted.problem.protection.link(wanted.item_weights)


def _fixed_point(wanted: Wanted) -> Link:
    problem = wanted.problem
    assert problem.formats is not None
    max_clients = problem.config.federation.largest_cohort(problem.train.num_users)
    return fixed_point(problem.formats, max_clients=max_clients)


def _drops_out(problem: "Problem") -> bool:
    """Return whether clients of a round drop out; asynchronous ones do in the timetable."""
    devices = problem.config.devices
    return devices.has_dropouts and not devices.is_asynchronous


def _dropouts(wanted: Wanted) -> Link:
    return dropouts(wanted.problem.client_devices.dropout)


def _void(wanted: Wanted) -> Link:
    return void_below(wanted.problem.config.privacy.min_cohort)


def _may_be_void(problem: "Problem") -> bool:
    return problem.config.privacy.spec.sums_securely and _drops_out(problem)


CHANNEL_ROWS = (
    ChannelRow("item subset", chooses_items, lambda wanted: subset_of_items(wanted.problem)),
    ChannelRow("rounded items", rounds_items, lambda wanted: rounded_items(wanted.problem)),
    ChannelRow("compressed rows", changes_rows, lambda wanted: compressed_rows(wanted.problem)),
    ChannelRow("clipping and noise", lambda problem: problem.protection is not None, _protection),
    ChannelRow("dropouts", _drops_out, _dropouts),
    ChannelRow("fixed point", lambda problem: problem.formats is not None, _fixed_point),
    ChannelRow("void rounds", _may_be_void, _void),
)
