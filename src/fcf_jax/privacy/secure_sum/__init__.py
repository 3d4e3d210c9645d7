"""Secure sums: the server learns the sum of what a cohort sends, and nothing of a single client.

    formats = choose_formats(bounds, max_clients=1000)           # fixed point, overflow ruled out
    sums, view, info = secure_cohort_sum(item_factors, clients, weighting, formats=formats, ...)

`sums` is the input of a server step, `view` everything that the server received, `info` what only a
simulation knows. `plain_integer_sum` computes the same sums, bit for bit, without masks.
"""

from fcf_jax.privacy.secure_sum.accumulate import fixed_point_sums as fixed_point_sums
from fcf_jax.privacy.secure_sum.cohorts import check_cohorts as check_cohorts
from fcf_jax.privacy.secure_sum.fixed_point import FixedPoint as FixedPoint
from fcf_jax.privacy.secure_sum.fixed_point import check_formats as check_formats
from fcf_jax.privacy.secure_sum.fixed_point import choose_formats as choose_formats
from fcf_jax.privacy.secure_sum.protocol import ServerView as ServerView
from fcf_jax.privacy.secure_sum.protocol import SumRules as SumRules
from fcf_jax.privacy.secure_sum.rounds import NoiseShares as NoiseShares
from fcf_jax.privacy.secure_sum.rounds import SecureSumInfo as SecureSumInfo
from fcf_jax.privacy.secure_sum.rounds import plain_integer_sum as plain_integer_sum
from fcf_jax.privacy.secure_sum.rounds import secure_cohort_sum as secure_cohort_sum
