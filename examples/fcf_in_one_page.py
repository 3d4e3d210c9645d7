"""Federated Collaborative Filtering in one page: Algorithm 1 of arXiv:1901.09888 as a plain loop.

Dense NumPy in float64, one client at a time, every upload written out. `fcf_jax` computes the same
numbers without ever holding them all; tests/test_example.py checks that the two agree.
"""

from collections.abc import Iterator

import numpy as np


def client_round(
    item_factors: np.ndarray, strengths: np.ndarray, *, alpha: float, regularization: float
) -> tuple[np.ndarray, float]:
    """Let one user, who holds only its own `strengths` [items], solve its factor and answer the server.

    Returns:
        What is sent, f(u, i) = c_i (p_i - x.y_i) x for every item [items, factors]; and the user's loss.
    """
    preference = (strengths > 0).astype(float)
    confidence = 1.0 + alpha * strengths
    weighted = item_factors * confidence[:, None]
    identity = np.eye(item_factors.shape[1])
    user_factor = np.linalg.solve(
        weighted.T @ item_factors + regularization * identity, weighted.T @ preference
    )
    error = preference - item_factors @ user_factor
    loss = np.sum(confidence * error**2) + regularization * np.sum(user_factor**2)
    return np.outer(confidence * error, user_factor), loss


def federated_rounds(
    item_factors: np.ndarray,
    strengths: np.ndarray,
    *,
    num_rounds: int,
    alpha: float,
    regularization: float,
    learning_rate: float,
    b1: float = 0.9,
    b2: float = 0.99,
    eps: float = 1e-8,
) -> Iterator[tuple[np.ndarray, float]]:
    """Run the server, every user taking part in every round, with Adam.

    Args:
        item_factors: the first Y [items, factors].
        strengths: r [users, items], 0 where there was no interaction; row u is known to user u only.

    Yields:
        After each round, the new item factors and the loss before the step.
    """
    first_moment, second_moment = np.zeros_like(item_factors), np.zeros_like(item_factors)
    for t in range(1, num_rounds + 1):
        upload_sum = np.zeros_like(item_factors)
        loss = regularization * np.sum(item_factors**2)
        for own_strengths in strengths:  # on the devices
            upload, user_loss = client_round(
                item_factors, own_strengths, alpha=alpha, regularization=regularization
            )
            upload_sum += upload
            loss += user_loss
        gradient = -2.0 * upload_sum + 2.0 * regularization * item_factors  # on the server
        first_moment = b1 * first_moment + (1 - b1) * gradient
        second_moment = b2 * second_moment + (1 - b2) * gradient**2
        step = (first_moment / (1 - b1**t)) / (np.sqrt(second_moment / (1 - b2**t)) + eps)
        item_factors = item_factors - learning_rate * step
        yield item_factors, loss


def main() -> None:
    """Print the loss of each round on a small simulated set."""
    rng = np.random.default_rng(0)
    taste = rng.normal(size=(60, 3)) @ rng.normal(size=(3, 40))
    strengths = np.where(taste > 1.5, rng.geometric(0.5, taste.shape), 0).astype(float)
    start = 0.1 * rng.normal(size=(40, 5))
    rounds = federated_rounds(
        start, strengths, num_rounds=30, alpha=4.0, regularization=1.0, learning_rate=0.05
    )
    for t, (_, loss) in enumerate(rounds):
        print(f"round {t:2d}  loss {loss:9.2f}")


if __name__ == "__main__":
    main()
