"""Payload ledger: the bytes that a client sends and receives in a round, after all links of the channel."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypedDict

import numpy as np

from fcf_jax.channel.payload import FORMS, Sizes
from fcf_jax.core.records import Payload
from fcf_jax.experiments.config.schema import ExperimentConfig
from fcf_jax.privacy.secure_sum.protocol import SumRules, key_bytes

_NUMBER_BYTES = 4  # a float32, or a word of a secure sum


class Spread(TypedDict):
    """Bytes over the clients."""

    mean: float
    p50: float
    p95: float
    max: float


class Ledger(TypedDict):
    """Bytes of one client in one round.

    Attributes:
        form: `channel.form`.
        bytes_up: sent.
        bytes_down: received.
        forms: mean bytes (up, down) of each form that the privacy mode allows, for comparison.
        tells_history: whether the messages show the history to whoever carries them.
    """

    form: str
    bytes_up: Spread
    bytes_down: Spread
    forms: dict[str, tuple[float, float]]
    tells_history: bool


class Shape(NamedTuple):
    """Sizes that the bytes depend on.

    Attributes:
        num_items: M.
        history_lengths: items of each client.
        num_user_features: length of a user's features; 0 without.
    """

    num_items: int
    history_lengths: Any = 0
    num_user_features: int = 0


def ledger_of(
    config: ExperimentConfig, shape: Shape, links: Callable[[Payload], Payload] | None = None
) -> Ledger:
    """Count the bytes of each client, in the configured form and the others.

    Args:
        config: as resolved.
        shape: sizes of the problem.
        links: payload of the channel's links; None: no channel.
    """
    up, down = client_bytes(config, shape, links)
    allowed = ("dense",) if config.privacy.spec.protects_uploads else FORMS
    forms = {form: client_bytes(config, shape, links, form=form) for form in allowed}
    return {
        "form": config.channel.form,
        "bytes_up": _spread(up),
        "bytes_down": _spread(down),
        "forms": {form: (float(np.mean(one)), float(np.mean(other))) for form, (one, other) in forms.items()},
        "tells_history": config.channel.form == "own_rows",
    }


def client_bytes(
    config: ExperimentConfig,
    shape: Shape,
    links: Callable[[Payload], Payload] | None = None,
    *,
    form: str | None = None,
) -> tuple[Any, Any]:
    """Count the bytes (up, down) of each client in one round.

    In the dense form, a client receives Y [items, factors] and sends a gradient of the same shape; for steps
    that use the curvature also x x^T [factors, factors], the confidences [items] if they have a weight, and
    the loss if there is no noise. Only learned items count; noisy item counts, sent once, do not. A client
    with features receives A [features, factors], and sends f x^T of that shape and f f^T [features,
    features]. Secure sums exchange keys and shares besides.

    Args:
        config: as resolved.
        shape: sizes of the problem.
        links: payload of the channel's links; None: no channel.
        form: replaces `channel.form`.
    """
    sizes = Sizes(
        num_items=config.privacy.num_learned_items(shape.num_items),
        num_columns=config.model.num_columns,
        history_length=shape.history_lengths,
        sent=config.sent_pieces,
    )
    if config.privacy.starts_from_moments:
        return _bytes_of_moments(config, sizes)
    payload = FORMS[form or config.channel.form](sizes)
    if links is not None:
        payload = links(payload)
    of_map = shape.num_user_features * config.model.num_columns
    keys_up, keys_down = key_bytes(SumRules()) if config.privacy.spec.sums_securely else (0, 0)
    up = payload.bytes_up + _NUMBER_BYTES * (of_map + shape.num_user_features**2) + keys_up
    return up, payload.bytes_down + _NUMBER_BYTES * of_map + keys_down


def _bytes_of_moments(config: ExperimentConfig, sizes: Sizes) -> tuple[int, int]:
    """Count the bytes (up, down) of a client in its releases in place of rounds: counts, and two sums."""
    head, tastes = min(config.privacy.moment_items, sizes.num_items), sizes.num_columns - 1
    moments, projections = head * (head + 1) // 2, sizes.num_items * tastes
    counts = head + sizes.num_items  # down go the order of the items, and then the directions
    return _NUMBER_BYTES * (sizes.num_items + moments + projections), _NUMBER_BYTES * (counts + head * tastes)


def _spread(num_bytes: Any) -> Spread:
    values = np.atleast_1d(np.asarray(num_bytes, float))
    p50, p95 = np.percentile(values, [50, 95])
    return {"mean": float(values.mean()), "p50": float(p50), "p95": float(p95), "max": float(values.max())}
