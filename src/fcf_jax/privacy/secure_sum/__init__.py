"""Secure sums, from which the server learns the sum over a cohort but nothing of a single client.

    encoding = Encoding(choose_formats(bounds, max_clients=1000))    # fixed point without overflow
    sums, view, info = secure_cohort_sum(model, item_factors, clients, encoding, RoundTerms(round_index=0))

`sums` is the input of a server step, `view` all that the server received, and `info` a report that only a
simulation can make. `plain_integer_sum` computes the same sums, bit for bit, without masks.
"""

from fcf_jax.privacy.secure_sum.cohorts import check_cohorts
from fcf_jax.privacy.secure_sum.combinations import check_combinations
from fcf_jax.privacy.secure_sum.protocol import ServerView, SumRules
from fcf_jax.privacy.secure_sum.rounds import (
    Encoding,
    NoiseShares,
    RoundTerms,
    SecureSumInfo,
    plain_integer_sum,
    secure_cohort_sum,
)

__all__ = [
    "Encoding",
    "NoiseShares",
    "RoundTerms",
    "SecureSumInfo",
    "ServerView",
    "SumRules",
    "check_cohorts",
    "check_combinations",
    "plain_integer_sum",
    "secure_cohort_sum",
]
