"""Who masks with whom: a regular graph, drawn from a public seed.

Clients stand in a ring, in an order drawn anew for each round, and each is a neighbour of the
`degree` / 2 that stand next to it on either side. Small cohorts: everybody of everybody.
"""

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components
from scipy.stats import hypergeom

MIN_DEGREE = 20


def neighbor_graph(num_clients: int, *, degree: int, seed: bytes) -> np.ndarray:
    """Draw each client's neighbours.

    Args:
        degree: even, at least 20.
        seed: public, and new in each round.

    Returns:
        Positions in the cohort [clients, degree], ascending; degree is num_clients - 1 in cohorts that
        are too small for more.

    Raises:
        ValueError: for another degree, or fewer than two clients.

    References:
        Bell et al., CCS 2020, section 3 (a Harary graph on nodes in random order).
    """
    if degree < MIN_DEGREE or degree % 2:
        raise ValueError(f"expected an even degree of at least {MIN_DEGREE}, got {degree}")
    if num_clients < 2:
        raise ValueError(f"expected at least 2 clients, got {num_clients}; nobody else could hide them")
    order = np.random.default_rng(int.from_bytes(seed, "big")).permutation(num_clients)
    half = degree // 2
    steps = np.arange(1, num_clients) if num_clients <= degree + 1 else np.r_[-half:0, 1 : half + 1]
    neighbors = np.empty((num_clients, steps.size), np.int64)
    neighbors[order] = order[(np.arange(num_clients)[:, None] + steps) % num_clients]
    return np.sort(neighbors, axis=1)


def is_connected(neighbors: np.ndarray, present: np.ndarray) -> bool:
    """Say whether those present hang together; if not, each part's sum could be told apart."""
    places = np.flatnonzero(present)
    rows = np.repeat(np.arange(len(neighbors)), neighbors.shape[1])
    edges = csr_matrix((np.ones(rows.size, bool), (rows, neighbors.ravel())), (len(neighbors),) * 2)
    return connected_components(edges[places][:, places], directed=False, return_labels=False) == 1


def recovery_failure(num_clients: int, *, degree: int, threshold: int, num_dropped: int) -> float:
    """Bound the probability that somebody has fewer than `threshold` neighbours left.

    A union bound over all clients, for dropouts drawn at random.
    """
    degree = min(degree, num_clients - 1)
    left = hypergeom.cdf(threshold - 1, num_clients - 1, num_clients - num_dropped - 1, degree)
    return min(float(num_clients * left), 1.0)


def degree_needed(num_clients: int, *, num_dropped: int, failure_probability: float = 1e-3) -> int:
    """Compute the even degree at which a majority of everybody's neighbours stays, so likely.

    Raises:
        ValueError: when even everybody's being everybody's neighbour does not do.
    """
    for degree in range(MIN_DEGREE, max(num_clients, MIN_DEGREE) + 2, 2):
        threshold = min(degree, num_clients - 1) // 2 + 1
        sizes = {"degree": degree, "threshold": threshold, "num_dropped": num_dropped}
        if recovery_failure(num_clients, **sizes) <= failure_probability:
            return degree
    raise ValueError(f"expected fewer dropouts, got {num_dropped} of {num_clients}; no degree recovers them")
