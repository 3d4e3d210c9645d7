r"""Did this client take part? The attacker who knows everything else, against noise.

It knows the others' sum and what u would send, g_u in clip norms. The likelihood ratio is a monotone
function of the noised sum, less the others', projected on g_u: N(|g_u|, sigma^2) if u took part, and
N(0, sigma^2) if not. No attacker does better (Neyman & Pearson).
"""

import numpy as np

from fcf_jax.privacy.attacks.figures import Figure, ratio
from fcf_jax.privacy.attacks.knowledge import Floats

_DRAWS = 1000  # of a user's statistic, with it and without


def taking_part(
    signals: Floats, *, noise_multiplier: float, num_rounds: int = 1, false_positive_rate: float = 1e-3
) -> tuple[Figure, Figure]:
    """Measure how well taking part is told from not taking part.

    The noise is drawn along g_u, where it is N(0, sigma^2) as in any direction.

    Args:
        signals: [users], |g_u|, at most 1.
        noise_multiplier: sigma.
        num_rounds: with one model, averaged.
        false_positive_rate: of the second figure.

    Returns:
        The AUC, and the rate of true positives at that rate of false ones.
    """
    rng = np.random.default_rng(0)
    noise = noise_multiplier / np.sqrt(num_rounds) * rng.normal(size=(2, len(signals), _DRAWS))
    with_user, without = signals[:, None] + noise[0], noise[1]
    wins = [_wins(ins, outs) for ins, outs in zip(with_user, without, strict=True)]
    threshold = np.quantile(without, 1.0 - false_positive_rate)
    draws = np.full(len(signals), float(_DRAWS))
    return ratio(np.array(wins), draws), ratio((with_user > threshold).sum(axis=1), draws)


def _wins(ins: Floats, outs: Floats) -> float:
    """Count how many draws without it each draw with it exceeds, on average; a tie counts half."""
    outs = np.sort(outs)
    below, upto = np.searchsorted(outs, ins, "left"), np.searchsorted(outs, ins, "right")
    return float((below + upto).sum()) / (2 * len(outs))
