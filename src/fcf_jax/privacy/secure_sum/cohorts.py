"""Cohorts of secure sums: which of them may be summed, and who masks with whom.

Two sums differ by the uploads of the clients that are in only one of them. The number of these clients
must be 0 (full participation: the same clients at another model) or reach the minimum. What three or more
rounds reveal together is checked by `combinations`.

Clients stand in a ring, in an order drawn anew for each round from a public seed, and each is a neighbour
of the `degree` / 2 next to it on either side. In small cohorts all are neighbours of each other.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

_MIN_DEGREE = 20
_ROUNDS_AT_A_TIME = 256
_DEVIATIONS = 6.0  # a normal variable is further below its mean with a chance of 1e-9


def differ_too_little(num_different: npt.ArrayLike, *, min_cohort: int) -> npt.NDArray[np.bool_]:
    """Return whether cohorts that differ in this many clients are too near to each other to be summed."""
    num_different = np.asarray(num_different)
    return np.asarray((num_different > 0) & (num_different < min_cohort))


def check_cohorts(cohorts: np.ndarray, *, num_users: int, min_cohort: int) -> None:
    """Refuse the cohorts of a run, before any round, if their sums would reveal too much.

    Args:
        cohorts: client ids [rounds, clients]; `num_users` is padding.
        num_users: N.
        min_cohort: least number of clients in a sum, and in the difference of two.

    Raises:
        ValueError: naming the first round that is too small, or too near to an earlier one.
    """
    sizes = (cohorts < num_users).sum(axis=1)
    if (sizes < min_cohort).any():
        first = int(np.argmax(sizes < min_cohort))
        raise ValueError(
            f"expected cohorts of at least {min_cohort} clients (min_cohort), got {sizes[first]} in "
            f"round {first}"
        )
    for start, different in _differences(cohorts, num_users):
        pairs = np.argwhere(differ_too_little(different, min_cohort=min_cohort))
        if pairs.size:
            first, second = int(pairs[0, 0]), int(pairs[0, 1])
            raise ValueError(
                f"expected cohorts equal or different in at least {min_cohort} clients (min_cohort), got a "
                f"difference of {different[first, second]} between rounds {start + first} and {second}"
            )


def check_survivors(cohorts: np.ndarray, *, num_users: int, min_cohort: int, dropout: float) -> None:
    """Refuse dropouts after which sums would reveal too much, or most of them could not be opened.

    Who drops out is not known beforehand: the survivors of two rounds must differ in the minimum of clients
    but for a chance of about 1e-9. A round of too few survivors is void.

    Args:
        cohorts: client ids [rounds, clients]; `num_users` is padding. A single cohort stands for all rounds.
        num_users: N.
        min_cohort: least number of clients in a sum, and in the difference of two.
        dropout: chance that a client drops out, the same for all.

    Raises:
        ValueError: naming how many clients are expected to come back, or to be in one of two sums alone.
    """
    sizes = (cohorts < num_users).sum(axis=1)
    if (few := (1 - dropout) * sizes.min()) < min_cohort:
        raise ValueError(f"expected at least {min_cohort} clients (min_cohort) to come back, got {few:.1f}")
    changed = 2 * dropout * (1 - dropout)  # chance that a client comes back in one of two rounds alone
    for start, different in _differences(cohorts, num_users):
        if len(cohorts) > 1:
            block = np.arange(len(different))
            different[block, start + block] = 2 * sizes.max()  # a round is not compared with itself
        common = 0.5 * (sizes[start : start + len(different), None] + sizes[None, :] - different)
        mean = changed * common + (1 - dropout) * different
        variance = changed * (1 - changed) * common + dropout * (1 - dropout) * different
        if np.any(mean - _DEVIATIONS * np.sqrt(np.maximum(variance, 0.0)) < min_cohort):
            raise ValueError(
                f"expected clients that come back in one of two rounds alone to be {min_cohort} (min_cohort) "
                f"at least, got {mean.min():.1f} on average"
            )


def _differences(cohorts: np.ndarray, num_users: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield, for blocks of rounds from `start` on, in how many clients they differ from all rounds."""
    from scipy.sparse import csr_array

    rounds, places = np.nonzero(cohorts < num_users)
    ones = np.ones(rounds.size, np.int64)
    members = csr_array((ones, (rounds, cohorts[rounds, places])), shape=(len(cohorts), num_users))
    sizes = np.asarray(members.sum(axis=1))
    for start in range(0, len(cohorts), _ROUNDS_AT_A_TIME):
        block = slice(start, start + _ROUNDS_AT_A_TIME)
        common = (members[block] @ members.T).toarray()
        yield start, sizes[block, None] + sizes[None, :] - 2 * common


def neighbor_graph(num_clients: int, *, degree: int, seed: bytes) -> np.ndarray:
    """Draw each client's neighbours.

    Args:
        num_clients: in the cohort, at least 2.
        degree: neighbours of each client, even, at least 20.
        seed: public, and new in each round.

    Returns:
        Positions in the cohort [clients, degree], ascending; in cohorts that are too small for `degree`
        neighbours, all other clients.

    Raises:
        ValueError: for another degree, or fewer than two clients.

    References:
        Bell et al., CCS 2020, section 3 (a Harary graph on nodes in random order).
    """
    if degree < _MIN_DEGREE or degree % 2:
        raise ValueError(f"expected an even degree of at least {_MIN_DEGREE}, got {degree}")
    if num_clients < 2:
        raise ValueError(f"expected at least 2 clients, got {num_clients}; no other client could hide them")
    order = np.random.default_rng(int.from_bytes(seed, "big")).permutation(num_clients)
    half = degree // 2
    steps = np.arange(1, num_clients) if num_clients <= degree + 1 else np.r_[-half:0, 1 : half + 1]
    neighbors = np.empty((num_clients, steps.size), np.int64)
    neighbors[order] = order[(np.arange(num_clients)[:, None] + steps) % num_clients]
    return np.sort(neighbors, axis=1)


def is_connected(neighbors: np.ndarray, present: np.ndarray) -> bool:
    """Return whether the present clients are connected; if not, the server could sum each part."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components

    places = np.flatnonzero(present)
    rows = np.repeat(np.arange(len(neighbors)), neighbors.shape[1])
    edges = csr_matrix((np.ones(rows.size, bool), (rows, neighbors.ravel())), (len(neighbors),) * 2)
    return connected_components(edges[places][:, places], directed=False, return_labels=False) == 1


def recovery_failure(num_clients: int, *, degree: int, threshold: int, num_dropped: int) -> float:
    """Bound the probability that some client has too few neighbours left to recover its secrets.

    A union bound over all clients, for random dropouts.

    Args:
        num_clients: in the cohort.
        degree: neighbours of each client.
        threshold: neighbours that recover a secret.
        num_dropped: clients that drop out.
    """
    from scipy.stats import hypergeom

    degree = min(degree, num_clients - 1)
    left = hypergeom.cdf(threshold - 1, num_clients - 1, num_clients - num_dropped - 1, degree)
    return min(float(num_clients * left), 1.0)


def degree_needed(num_clients: int, *, num_dropped: int, failure_probability: float = 1e-3) -> int:
    """Compute the least even degree at which a majority of every client's neighbours remains.

    `failure_probability` is that of any client losing its majority.

    Raises:
        ValueError: if no degree suffices, not even with all clients as neighbours.
    """
    for degree in range(_MIN_DEGREE, max(num_clients, _MIN_DEGREE) + 2, 2):
        threshold = min(degree, num_clients - 1) // 2 + 1
        failure = recovery_failure(num_clients, degree=degree, threshold=threshold, num_dropped=num_dropped)
        if failure <= failure_probability:
            return degree
    raise ValueError(f"expected fewer dropouts, got {num_dropped} of {num_clients}; no degree recovers them")
