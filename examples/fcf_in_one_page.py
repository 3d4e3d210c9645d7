r"""Federated Collaborative Filtering in one page: Algorithm 1 of arXiv:1901.09888 as a plain loop.

    J = \sum_u \sum_i c_ui (p_ui - x_u.y_i)^2 + lambda (\sum_u |x_u|^2 + \sum_i |y_i|^2)

Dense NumPy in float64, one client at a time, with explicit uploads. The library computes the same numbers
without building the uploads; tests/test_example.py checks that the two agree:

    model = fcf.Model(fcf.implicit_feedback(alpha=4.0), regularization=1.0)
    federation = fcf.federated_cf(model, optax.adam(0.05, b2=0.99), num_items=40, num_factors=5)
    state, info = fcf.run_rounds(federation, key, federation.init(key), clients, num_rounds=30)
"""

from collections.abc import Iterator

import numpy as np


def client_update(
    item_factors: np.ndarray, strengths: np.ndarray, *, alpha: float, regularization: float
) -> tuple[np.ndarray, float]:
    """Run one client.

    Args:
        item_factors: Y, as received from the server [items, factors].
        strengths: r of this client [items], 0 without an interaction; they never leave the device.
        alpha: confidence added by one unit of strength, at least 0.
        regularization: lambda, at least 0.

    Returns:
        The upload f(u, i) = c_i (p_i - x.y_i) x [items, factors], and the client's share of J.
    """
    preference = (strengths > 0).astype(float)  # p
    confidence = 1.0 + alpha * strengths  # c
    weighted = confidence[:, None] * item_factors  # C Y
    normal_matrix = item_factors.T @ weighted + regularization * np.eye(item_factors.shape[1])
    user_factor = np.linalg.solve(normal_matrix, weighted.T @ preference)  # x never leaves the device
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
    """Run the server: all clients take part in every round, and Adam updates the item factors.

    Args:
        item_factors: Y to begin with [items, factors].
        strengths: r [users, items], 0 without an interaction; only client u reads row u.
        alpha: as for `client_update`.
        regularization: lambda, as for `client_update`.
        learning_rate: learning rate of Adam.
        b1: decay of the mean gradient, in [0, 1).
        b2: decay of the mean squared gradient, in [0, 1).
        eps: number added to the denominator, above 0.

    Yields:
        After each round, the next Y and the loss before the step.
    """
    mean, square = np.zeros_like(item_factors), np.zeros_like(item_factors)
    for t in range(1, num_rounds + 1):
        upload_sum, loss = np.zeros_like(item_factors), regularization * np.sum(item_factors**2)
        for client_strengths in strengths:  # on the devices
            upload, client_loss = client_update(
                item_factors, client_strengths, alpha=alpha, regularization=regularization
            )
            upload_sum += upload
            loss += client_loss
        gradient = -2.0 * upload_sum + 2.0 * regularization * item_factors  # dJ/dY, on the server
        mean = b1 * mean + (1 - b1) * gradient
        square = b2 * square + (1 - b2) * gradient**2
        step = (mean / (1 - b1**t)) / (np.sqrt(square / (1 - b2**t)) + eps)
        item_factors = item_factors - learning_rate * step
        yield item_factors, loss


def main() -> None:
    """Print the loss of each round on a small simulated data set."""
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
