"""Which cohorts may be summed: large ones, and no two that are nearly the same.

Two sums differ by what the clients in only one of them sent. So their number must reach the
minimum, or be 0: the same clients at another model is what full participation is. Only pairs of
rounds are looked at; what three or more say together is not.
"""

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

_ROUNDS_AT_A_TIME = 256


def tells_too_much(num_different: npt.ArrayLike, *, min_cohort: int) -> npt.NDArray[np.bool_]:
    """Say whether sums of cohorts that differ in so many clients are too near to each other."""
    num_different = np.asarray(num_different)
    return np.asarray((num_different > 0) & (num_different < min_cohort))


def check_cohorts(cohorts: np.ndarray, *, num_users: int, min_cohort: int) -> None:
    """Refuse, before any round, cohorts of rounds whose sums would say too much.

    Args:
        cohorts: ids of those in each round, [rounds, clients]; `num_users` stands for nobody.
        num_users: N.
        min_cohort: clients in a sum, and in the difference of two, at least.

    Raises:
        ValueError: naming the first round that is too small, or too near to an earlier one.
    """
    members = _members(cohorts, num_users)
    sizes = np.asarray(members.sum(axis=1))
    if (sizes < min_cohort).any():
        first = int(np.argmax(sizes < min_cohort))
        raise ValueError(
            f"expected cohorts of at least {min_cohort} clients (min_cohort), got {sizes[first]} in "
            f"round {first}"
        )
    for start in range(0, len(sizes), _ROUNDS_AT_A_TIME):
        these = slice(start, start + _ROUNDS_AT_A_TIME)
        common = (members[these] @ members.T).toarray()
        different = sizes[these, None] + sizes[None, :] - 2 * common
        pairs = np.argwhere(tells_too_much(different, min_cohort=min_cohort))
        if pairs.size:
            one, other = int(pairs[0, 0]), int(pairs[0, 1])
            raise ValueError(
                f"expected cohorts equal or different in at least {min_cohort} clients (min_cohort), got a "
                f"difference of {different[one, other]} between rounds {start + one} and {other}"
            )


def _members(cohorts: np.ndarray, num_users: int) -> csr_array:
    rounds, places = np.nonzero(cohorts < num_users)
    ones = np.ones(rounds.size, np.int64)
    return csr_array((ones, (rounds, cohorts[rounds, places])), shape=(len(cohorts), num_users))
