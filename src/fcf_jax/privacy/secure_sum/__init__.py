"""Secure sums: the server learns the sum of what a cohort sends, and nothing of a single client.

    encoding = Encoding(choose_formats(bounds, max_clients=1000))    # fixed point, overflow ruled out
    sums, view, info = secure_cohort_sum(model, item_factors, clients, encoding, RoundTerms(round_index=0))

`sums` is the input of a server step, `view` everything that the server received, `info` what only a
simulation knows. `plain_integer_sum` computes the same sums, bit for bit, without masks.
"""

from fcf_jax.privacy.secure_sum.cohorts import check_cohorts
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
    "plain_integer_sum",
    "secure_cohort_sum",
]
