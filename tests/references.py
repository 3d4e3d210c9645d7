"""The model in dense float64 NumPy, written to be read: what the fast code must agree with.

`c` and `p` are the full confidence and preference matrices [users, items], `X` [users, factors],
`Y` [items, factors]. Nothing here is sparse, packed or clever.
"""

import numpy as np

ALPHA, REGULARIZATION, NUM_FACTORS = 4.0, 0.7, 5  # of the small set in small_data.py


def dense_weights(strengths, seen, *, alpha, unobserved_weight=1.0, preference=None):
    """c = 1 + alpha r where seen, w0 elsewhere; p = 1 (or what is given) where seen, 0 elsewhere."""
    c = np.where(seen, 1.0 + alpha * np.asarray(strengths, np.float64), unobserved_weight)
    p = np.where(seen, 1.0 if preference is None else preference, 0.0)
    return c, p


def solve_user(Y, c_u, p_u, *, regularization):  # noqa: N803
    """x = (Y^T C Y + lambda I)^-1 Y^T C p."""
    Y = np.asarray(Y, np.float64)  # noqa: N806
    return np.linalg.solve((Y.T * c_u) @ Y + regularization * np.eye(Y.shape[1]), Y.T @ (c_u * p_u))


def solve_users(Y, c, p, *, regularization):  # noqa: N803
    """Every user's factor, one after the other."""
    return np.stack([solve_user(Y, *row, regularization=regularization) for row in zip(c, p, strict=True)])


def user_loss(Y, x, c_u, p_u, *, regularization):  # noqa: N803
    """One user's share of J, its lambda |x|^2 in, lambda |Y|^2 not."""
    return np.sum(c_u * (p_u - Y @ x) ** 2) + regularization * x @ x


def objective(X, Y, c, p, *, regularization):  # noqa: N803
    """J(X, Y)."""
    return np.sum(c * (p - X @ Y.T) ** 2) + regularization * (np.sum(X**2) + np.sum(Y**2))


def upload(Y, x, c_u, p_u):  # noqa: N803
    """f(u, i) = c_i (p_i - x.y_i) x for every item i."""
    return np.outer(c_u * (p_u - Y @ x), x)


def cohort_sum(X, Y, c, p):  # noqa: N803
    """F, the sum of the users' uploads."""
    return (c * (p - X @ Y.T)).T @ X


def user_gram(X):  # noqa: N803
    """S = sum_u x_u x_u^T."""
    return X.T @ X


def gradient(Y, c, p, *, regularization, cohort=slice(None)):  # noqa: N803
    """dJ/dY = -2 (N / Theta) F + 2 lambda Y, from the users of a cohort."""
    c_cohort, p_cohort = c[cohort], p[cohort]
    X = solve_users(Y, c_cohort, p_cohort, regularization=regularization)  # noqa: N806
    scale = len(c) / len(c_cohort)
    return -2.0 * scale * cohort_sum(X, Y, c_cohort, p_cohort) + 2.0 * regularization * Y


def sgd_round(Y, c, p, *, learning_rate, regularization, cohort=slice(None)):  # noqa: N803
    """One round with plain gradient descent on the server."""
    return Y - learning_rate * gradient(Y, c, p, regularization=regularization, cohort=cohort)


def als_sweep(Y, c, p, *, regularization):  # noqa: N803
    """Solve all users, then all items: (X, next Y)."""
    X = solve_users(Y, c, p, regularization=regularization)  # noqa: N806
    return X, solve_users(X, c.T, p.T, regularization=regularization)


def relative_error(actual, expected):
    """|actual - expected| / |expected|, in float64."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    return np.linalg.norm(actual - expected) / max(np.linalg.norm(expected), np.finfo(float).tiny)
