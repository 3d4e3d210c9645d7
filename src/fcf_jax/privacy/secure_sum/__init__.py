"""Secure sums: the server learns the sum of what a cohort sends, and of no client what it sends alone.

    encoding = Encoding(choose_formats(bounds, max_clients=1000))    # fixed point, overflow ruled out
    sums, view, info = secure_cohort_sum(model, item_factors, clients, encoding, RoundTerms(round_index=0))

`sums` is what a server step takes, `view` all that the server saw, `info` what only a simulation knows.
`plain_integer_sum` gives the same sums, bit for bit, without any mask.
"""

from fcf_jax.privacy.secure_sum.cohorts import check_cohorts
from fcf_jax.privacy.secure_sum.protocol import SumRules
from fcf_jax.privacy.secure_sum.rounds import (
    Encoding,
    NoiseShares,
    RoundTerms,
    SecureSumInfo,
    plain_integer_sum,
    secure_cohort_sum,
)
from fcf_jax.privacy.secure_sum.view import ServerView

__all__ = [
    "Encoding",
    "NoiseShares",
    "RoundTerms",
    "SecureSumInfo",
    "ServerView",
    "SumRules",
    "check_cohorts",
    "plain_integer_sum",
    "secure_cohort_sum",
]
