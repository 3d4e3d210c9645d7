r"""Bayesian personalized ranking: an observed item i shall score higher than a negative j.

    d(s) = 2 log(1 + e^-s),   s = x.(y_i - y_j)

It is the logistic loss of a difference, so that a pair takes the place of an observed item, and both of its
items get a gradient of the same factored form. The negatives come with the histories
(`fcf_jax.data.with_pairs`). w0 is 0: items of no pair do not count.

References:
    Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback", UAI 2009, equation 4.
"""

from dataclasses import replace

from fcf_jax.core.objectives.logistic import logistic
from fcf_jax.core.objectives.record import Objective

_BPR = replace(logistic(), name="bpr", is_pairwise=True)


def bpr() -> Objective:
    """Return the objective, for `Model(implicit_feedback(alpha=0.0), ..., objective=bpr())`.

    With an alpha above 0, pairs of strong interactions count more.
    """
    return _BPR
