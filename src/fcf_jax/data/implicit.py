"""What implicit feedback must be before it is weighed: strengths that a confidence can be made of."""

import numpy as np

from fcf_jax.data.interactions import Interactions

MAX_CONFIDENCE_GAIN = 1e8  # alpha * r; beyond it float32 normal equations lose every other item of the user


def check_implicit(interactions: Interactions, *, alpha: float) -> None:
    """Check that the confidence c = 1 + alpha * r can be computed with.

    Args:
        interactions: Implicit feedback, r >= 0.
        alpha: >= 0.

    Raises:
        ValueError: For a negative alpha, a negative strength, or alpha * r > 1e8, naming the labels of user
            and item.
    """
    if not alpha >= 0:
        raise ValueError(f"expected alpha >= 0, got {alpha}; set model.alpha")
    interactions.refuse_negative("implicit feedback")
    gains = interactions.strengths * np.float64(alpha)
    position = int(gains.argmax()) if len(gains) else 0
    if len(gains) and gains[position] > MAX_CONFIDENCE_GAIN:
        raise ValueError(
            f"expected alpha * strength <= {MAX_CONFIDENCE_GAIN:g}, got {gains[position]:g} "
            f"for {interactions.name_of(position)}; lower model.alpha or scale the strengths (log_scaled)"
        )
