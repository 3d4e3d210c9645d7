"""Item subsets: in each round, the server sends and collects the rows of some items only.

Clients receive zeros for all other items, so that they solve their factors from the items that were sent, and
send gradients of these alone. An item that was not sent is no observation, and costs nothing.

The server leaves the other items as they are: give its step to `step_of_sent_items`.

    step = step_of_sent_items(optax.adam(0.05))
    channel = item_subset(0.1, choice="bandit", num_items=..., num_factors=25)
    federation = federated_cf(model, step, channel=channel, num_items=..., num_factors=25)
"""

import functools
from typing import Any, NamedTuple

import jax
import optax
from jax import numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float

from fcf_jax.channel.item_choice import CHOICES, Learned
from fcf_jax.channel.link import link
from fcf_jax.channel.sent_rows import Sent, SentRows, uploads_of, with_uploads
from fcf_jax.channel.top_rows import check_share
from fcf_jax.core.biases import without_constant
from fcf_jax.core.records import CohortSum, Key, Link, Part, Payload, Scalar

_ID_BITS = 32
_ROUNDING = 8  # units of rounding in a gradient that is only lambda Y


class SubsetState(NamedTuple):
    """State of `item_subset`.

    Attributes:
        is_sent: whether an item is sent in the next round.
        knowledge: what the server has learned of the items, by the way of choosing.
    """

    is_sent: Bool[Array, "items"]
    knowledge: Any


def item_subset(
    share: Scalar,
    *,
    num_items: int,
    num_factors: int,
    choice: str = "uniform",
    key: Key | None = None,
) -> Link:
    """Build a link that sends the rows of some items only, chosen by the server before each round.

    Args:
        share: share of the items that are sent, in (0, 1]; rounded to a number of items of at least 1; may be
            traced.
        num_items: M.
        num_factors: columns of the item factors.
        choice: "uniform"; "popularity", drawn by the confidence sums of earlier rounds; or "bandit", that of
            FCF-BTS, by the gradients of earlier rounds.
        key: of the first round's choice, which nothing is known for; later ones use the round's key. None: a
            fixed one.

    Raises:
        ValueError: for a share outside (0, 1], or an unknown choice.
    """
    check_share(share)
    if choice not in CHOICES:
        raise ValueError(f"expected a choice out of {', '.join(CHOICES)}, got {choice!r}")
    first_state, learn = _ends(choice, num_items, num_factors)
    return link(
        init=Partial(first_state, share, jax.random.key(0) if key is None else key),
        client=_mask_uploads,
        server=Partial(learn, share),
        payload=Partial(_payload, share),
        broadcast=_mask_items,
    )


@functools.cache
def _ends(choice: str, num_items: int, num_factors: int) -> tuple:
    """Return the same functions for the same sizes: a link that is built again does not recompile."""
    start, learn, draw = CHOICES[choice]

    def drawn(share: Scalar, key: Key, knowledge: Any) -> SubsetState:
        num_sent = jnp.maximum(jnp.round(jnp.asarray(share, float) * num_items), 1)
        falling = jnp.argsort(-draw(key, knowledge, num_items))
        place = jnp.zeros(num_items, jnp.int32).at[falling].set(jnp.arange(num_items, dtype=jnp.int32))
        return SubsetState(place < num_sent, knowledge)

    def first_state(share: Scalar, key: Key) -> SubsetState:
        return drawn(share, key, start(num_items, num_factors))

    def after_round(
        share: Scalar, key: Key, state: SubsetState, sums: CohortSum
    ) -> tuple[CohortSum, SubsetState]:
        is_sent = _of_rows(state, sums.upload)
        sums = sums._replace(
            upload=jnp.where(is_sent[:, None], sums.upload, 0.0),
            confidence_sum=jnp.where(is_sent, sums.confidence_sum, 0.0),
        )
        learned = Learned(state.is_sent, sums.upload[:num_items], sums.confidence_sum[:num_items])
        return sums, drawn(share, key, learn(state.knowledge, learned))

    return first_state, after_round


def _of_rows(state: SubsetState, rows: Float[Array, "items factors"]) -> Bool[Array, "items"]:
    """Return whether each row is sent; padding rows of a mesh are not."""
    return jnp.pad(state.is_sent, (0, rows.shape[0] - state.is_sent.shape[0]))


def _mask_items(
    key: Key | None, state: SubsetState, item_factors: Float[Array, "items factors"]
) -> Float[Array, "items factors"]:
    return jnp.where(_of_rows(state, item_factors)[:, None], item_factors, 0.0)


def _mask_uploads(key: Key | None, state: SubsetState, sent: Sent) -> Sent:
    uploads = uploads_of(sent)
    observations = uploads.observations
    is_sent = observations.mask & state.is_sent[observations.item_ids]
    if observations.negative_ids is not None:
        raise ValueError("expected interactions that stand alone, got pairs; send all items")
    uploads = uploads._replace(
        observations=observations._replace(mask=is_sent), seen=jnp.where(is_sent, uploads.seen, 0.0)
    )
    if isinstance(sent, SentRows):
        sent = sent._replace(upload_rows=jnp.where(is_sent[:, :, None], sent.upload_rows, 0.0))
    return with_uploads(sent, uploads)


def _payload(share: Scalar, payload: Payload) -> Payload:
    """Return the payload with the share of the rows of items; of histories, the share to expect.

    Rows of Y need their ids then.
    """

    def of_share(part: Part) -> Part:
        return part._replace(num_rows=jax.tree.map(lambda rows: share * rows, part.num_rows))

    up, down = payload.up, of_share(payload.down)
    up = up._replace(upload=of_share(up.upload), confidence_sum=of_share(up.confidence_sum))
    return payload._replace(up=up, down=down._replace(row_bits=down.row_bits + _ID_BITS))


def step_of_sent_items(
    optimizer: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Build a server step that moves only items that were sent, and leaves the state of all others.

    Momentum does not move an item that was not sent, nor is it averaged with zeros. An item counts as not
    sent if its sum of uploads is 0, and its gradient therefore 2 lambda y. State is recognized by its first
    axis, of the items; what else the step keeps changes in every round.

    Args:
        optimizer: the step; `guarded_gram` does not suit, as it compares losses of the same items.
    """
    inner = optax.with_extra_args_support(optimizer)

    def update(
        gradient: Any, state: Any, params: Any = None, *, model: Any, item_prior: Any = None, **extra: Any
    ):
        shrunk = params if item_prior is None else params - item_prior
        alone = without_constant(2.0 * model.regularization * shrunk, model.biases)
        rounding = _ROUNDING * jnp.finfo(gradient.dtype).eps * jnp.abs(alone)
        is_sent = jnp.any(jnp.abs(gradient - alone) > rounding, axis=-1)
        updates: Any
        updates, after = inner.update(gradient, state, params, model=model, item_prior=item_prior, **extra)

        def kept(new: Any, old: Any) -> Any:
            of_items = jnp.shape(new)[:1] == is_sent.shape
            return jnp.where(is_sent.reshape(-1, *[1] * (new.ndim - 1)), new, old) if of_items else new

        return kept(updates, jnp.zeros_like(updates)), jax.tree.map(kept, after, state)

    move: Any = update  # optax's types are those of pytrees and of no extra arguments
    return optax.GradientTransformationExtraArgs(inner.init, move)
