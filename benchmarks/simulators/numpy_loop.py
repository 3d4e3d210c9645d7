"""Peer: a NumPy loop over the clients with the algebra of the fast path.

The Gram matrix is shared, a client touches its own rows only, and the part of the sum that
belongs to items that no client touched is added once, as Y times the Gram matrix of the user factors.
"""

from functools import partial

import numpy as np
from exchange import Problem, peer_parser, read_problem, serve_rounds


def solve_client(
    rows: np.ndarray, item_gram: np.ndarray, confidence: np.ndarray, ridge: np.ndarray
) -> np.ndarray:
    """Solve (G + sum (c - 1) y y^T + lambda I) x = sum c y for one user.

    Args:
        rows: the factors of the user's items [history, factors].
        ridge: lambda I.
    """
    extra = confidence - 1.0  # the Gram matrix counts every item once
    return np.linalg.solve(item_gram + (rows.T * extra) @ rows + ridge, confidence @ rows)


def dense_upload(item_factors: np.ndarray, item_gram: np.ndarray, history, ridge: np.ndarray) -> np.ndarray:
    """Compute what a device sends, f(u, .) = e x^T [items, factors]."""
    item_ids, confidence = history
    user_factor = solve_client(item_factors[item_ids], item_gram, confidence, ridge)
    residuals = -(item_factors @ user_factor)
    residuals[item_ids] = confidence * (1.0 + residuals[item_ids])
    return np.outer(user_factor, residuals).T  # twice as fast as the other way round


def ridge_of(problem: Problem) -> np.ndarray:
    """Build lambda I in the dtype of the factors."""
    item_factors = problem.item_factors
    return problem.regularization * np.eye(item_factors.shape[1], dtype=item_factors.dtype)


def run_round(item_factors: np.ndarray, histories: list, ridge: np.ndarray) -> np.ndarray:
    """Solve for everybody, and return the sum of all uploads."""
    item_gram = item_factors.T @ item_factors
    upload = np.zeros_like(item_factors)
    user_factors = np.empty((len(histories), item_factors.shape[1]), item_factors.dtype)
    for user, (item_ids, confidence) in enumerate(histories):
        rows = item_factors[item_ids]
        user_factor = solve_client(rows, item_gram, confidence, ridge)
        scores = rows @ user_factor
        weights = confidence * (1.0 - scores) + scores
        upload[item_ids] += weights[:, None] * user_factor  # item ids of one user are distinct
        user_factors[user] = user_factor
    return upload - item_factors @ (user_factors.T @ user_factors)


def main() -> None:
    arguments = peer_parser(__doc__).parse_args()
    problem = read_problem(arguments.problem)
    everybody = partial(run_round, problem.item_factors, problem.histories(), ridge_of(problem))
    serve_rounds(everybody, arguments.answer, ("numpy",))


if __name__ == "__main__":
    main()
