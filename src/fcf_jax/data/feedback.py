"""Rules of feedback: no implicit strength is negative, and no strength too large for float32."""

from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from fcf_jax.data.interactions import Interactions

Strengths = Literal["keep", "binary", "log"]
_MAX_RATING = 1e12  # its square, summed over a data set, stays far below the largest float32
_MAX_CONFIDENCE_GAIN = 1e8  # alpha * r; above it float32 loses the rest of the history


def check_implicit(interactions: "Interactions", *, alpha: float) -> None:
    """Check that the confidences c = 1 + alpha * r of implicit feedback fit float32 computation.

    Args:
        interactions: Implicit feedback, r >= 0.
        alpha: >= 0.

    Raises:
        ValueError: For a negative alpha or strength, or alpha * r > 1e8, with the labels of user and item.
    """
    if not alpha >= 0:
        raise ValueError(f"expected alpha >= 0, got {alpha}; set model.alpha")
    refuse_negative(interactions, "implicit feedback")
    gains = interactions.strengths * np.float64(alpha)
    position = int(gains.argmax()) if len(gains) else 0
    if len(gains) and gains[position] > _MAX_CONFIDENCE_GAIN:
        raise ValueError(
            f"expected alpha * strength <= {_MAX_CONFIDENCE_GAIN:g}, got {gains[position]:g} "
            f"for {_name_of(interactions, position)}; lower model.alpha (fcf tune: "
            "tuning.alpha, too) or scale the strengths (log_scaled)"
        )


def check_explicit(interactions: "Interactions") -> None:
    """Check that the squares of explicit ratings can be summed in float32.

    Raises:
        ValueError: For |r| > 1e12, with the labels of user and item.
    """
    sizes = np.abs(interactions.strengths)
    position = int(sizes.argmax()) if len(sizes) else 0
    if len(sizes) and sizes[position] > _MAX_RATING:
        raise ValueError(
            f"expected ratings between {-_MAX_RATING:g} and {_MAX_RATING:g}, got "
            f"{interactions.strengths[position]:g} for {_name_of(interactions, position)}; rescale them"
        )


def at_least(interactions: "Interactions", strength: float | None) -> "Interactions":
    """Leave out interactions of a lower strength; None: no interaction."""
    return interactions if strength is None else interactions.select(interactions.strengths >= strength)


def transformed(interactions: "Interactions", strengths: Strengths) -> "Interactions":
    """Transform strengths: "keep" none, "binary" to 1 each, "log" to log(1 + r)."""
    if strengths == "binary":
        return interactions.binarized()
    return interactions.log_scaled() if strengths == "log" else interactions


def refuse_negative(interactions: "Interactions", purpose: str) -> None:
    """Raise ValueError for a negative strength, with the labels of user and item."""
    if (interactions.strengths < 0).any():
        position = int((interactions.strengths < 0).argmax())
        raise ValueError(
            f"expected strengths >= 0 for {purpose}, got {interactions.strengths[position]:g} "
            f"for {_name_of(interactions, position)}; remove it or treat the data as explicit ratings"
        )


def _name_of(interactions: "Interactions", position: int) -> str:
    user = int(np.searchsorted(interactions.indptr, position, side="right")) - 1
    item = interactions.item_ids[position]
    user_label = user if interactions.user_labels is None else interactions.user_labels[user]
    item_label = item if interactions.item_labels is None else interactions.item_labels[item]
    return f"user {user_label}, item {item_label}"
