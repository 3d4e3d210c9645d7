"""The channel of an experiment: one row for each link, in the order in which uploads pass them.

A new link is a new row of `CHANNEL_ROWS`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jax import numpy as jnp
from jaxtyping import Array, Float

from fcf_jax.channel import Link, chain, confidences_once, dropouts, fixed_point, void_below
from fcf_jax.core.records import ClientData, Model
from fcf_jax.data import Interactions
from fcf_jax.experiments.build.attack import attack_link, defence_link, is_attacked, is_defended
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
        confidences: sum of all users, where it is sent once; None: computed.
    """

    problem: "Problem"
    item_weights: Float[np.ndarray, "items"] | None = None
    confidences: Float[Array, "items"] | None = None


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


def channel_of(
    problem: "Problem",
    item_weights: Float[np.ndarray, "items"] | None = None,
    confidences: Float[Array, "items"] | None = None,
) -> Link | None:
    """Chain the links that the configuration asks for; None if there are none. Arguments as of `Wanted`."""
    wanted = Wanted(problem, item_weights, confidences)
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


def _confidences(wanted: Wanted) -> Link:
    problem, total = wanted.problem, wanted.confidences
    total = summed_confidences(problem.model, problem.train) if total is None else total
    return confidences_once(total, num_users=problem.train.num_users)


def summed_confidences(model: Model, train: Interactions) -> Float[Array, "items"]:
    """Sum c - w0 over all users; c is affine in the strength."""
    both = jnp.arange(2.0)
    at_0, at_1 = model.weighting(ClientData(jnp.arange(2), both, both >= 0)).confidence
    strengths = np.bincount(train.item_ids, train.strengths, minlength=train.num_items)
    counts, strengths = (jnp.asarray(one, jnp.float32) for one in (train.item_counts, strengths))
    return counts * (at_0 - model.unobserved_weight) + strengths * (at_1 - at_0)


CHANNEL_ROWS = (
    ChannelRow("attack", is_attacked, lambda wanted: attack_link(wanted.problem)),
    ChannelRow("item subset", chooses_items, lambda wanted: subset_of_items(wanted.problem)),
    ChannelRow("rounded items", rounds_items, lambda wanted: rounded_items(wanted.problem)),
    ChannelRow("compressed rows", changes_rows, lambda wanted: compressed_rows(wanted.problem)),
    ChannelRow("defence", is_defended, lambda wanted: defence_link(wanted.problem)),
    ChannelRow("clipping and noise", lambda problem: problem.protection is not None, _protection),
    ChannelRow("dropouts", _drops_out, _dropouts),
    ChannelRow("fixed point", lambda problem: problem.formats is not None, _fixed_point),
    ChannelRow("void rounds", _may_be_void, _void),
    ChannelRow("confidences", lambda problem: problem.config.sent_confidences == "once", _confidences),
)
