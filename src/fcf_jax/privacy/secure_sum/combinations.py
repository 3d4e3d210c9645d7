r"""Combinations of the sums of many rounds: how many clients hide each other in all of them.

Where clients send the same numbers in every round, such as c - w0, the server may add and subtract the sums
of all rounds with any weights. With B the cohorts as 0 and 1 [rounds, users], such a combination is v . h,
where h are the clients' numbers and v is a vector of the row space of B. The leverage of user u,

    l_u = |P e_u|^2,   P: projection on the row space of B,

bounds its weight: v_u^2 = (v . P e_u)^2 <= l_u |v|^2. If all leverages are at most 1 / m, every combination
but 0 therefore involves at least m clients: the one with the largest weight has |v|^2 >= m v_u^2, and no
client adds more than v_u^2 to |v|^2. In the estimate by least squares, P h, a client has the weight l_u, and
the others are as much noise as in a sum of 1 / l_u clients. After one cohort, l_u is 1 / Theta; after r
passes of disjoint cohorts about r / Theta, and 1 once the client can be solved for.

The bound holds for linear combinations. It does not hold for an attacker who uses that the numbers are
whole: a sum of 0 shows that nobody in the cohort holds the item, in a single round as in many.
"""

import bisect

import numpy as np
from jaxtyping import Float, Int

_RANK_TOLERANCE = 1e-9  # relative; eigenvalues of B B^T that are not 0 are far above it
_ROUNDING = 1e-6  # of a leverage
_USERS_AT_A_TIME = 4096


def leverages(cohorts: Int[np.ndarray, "rounds clients"], *, num_users: int) -> Float[np.ndarray, "users"]:
    """Compute the leverage of each user: 1 where the sums of all rounds can be solved for it, at least 0.

    Args:
        cohorts: client ids of each round; `num_users` is padding.
        num_users: N.
    """
    from scipy.sparse import csr_array

    rounds, places = np.nonzero(cohorts < num_users)
    ones = np.ones(rounds.size)
    members = csr_array((ones, (rounds, cohorts[rounds, places])), shape=(len(cohorts), num_users))
    values, vectors = np.linalg.eigh((members @ members.T).toarray())
    is_kept = values > _RANK_TOLERANCE * max(values.max(initial=0.0), 1.0)
    basis = vectors[:, is_kept] / np.sqrt(values[is_kept])  # of the row space, in terms of the rounds
    columns = members.T.tocsr()
    parts = range(0, num_users, _USERS_AT_A_TIME)
    squares = [((columns[start : start + _USERS_AT_A_TIME] @ basis) ** 2).sum(axis=1) for start in parts]
    return np.minimum(np.concatenate(squares), 1.0)


def check_combinations(
    cohorts: Int[np.ndarray, "rounds clients"], *, num_users: int, min_clients: float
) -> None:
    """Refuse cohorts of a run, before any round, if their sums together would reveal too much.

    Args:
        cohorts: client ids of each round; `num_users` is padding.
        num_users: N.
        min_clients: least number of clients in a combination of sums.

    Raises:
        ValueError: naming the first round with which a leverage exceeds 1 / `min_clients`.
    """

    def largest(num_rounds: int) -> float:
        return float(leverages(cohorts[:num_rounds], num_users=num_users).max(initial=0.0))

    def is_unsafe(num_rounds: int) -> bool:
        return largest(num_rounds) * min_clients > 1 + _ROUNDING

    # leverages grow with every round, and add up to the rank: more than N / m independent rounds are unsafe
    end = min(int(num_users / min_clients) + 1, len(cohorts))
    while not is_unsafe(end):
        if end == len(cohorts):
            return
        end = min(2 * end, len(cohorts))
    first = bisect.bisect_left(range(end), True, key=is_unsafe)
    raise ValueError(
        f"expected each client to be hidden among at least {min_clients:g} in every combination of the "
        f"rounds' sums, got {1 / largest(first):.3g} from round {first - 1} on"
    )
