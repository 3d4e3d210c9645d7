r"""Attack on the sums of many rounds, of numbers that clients send alike in each: linear equations.

With B the cohorts as 0 and 1 [rounds, users], which the server knows, and H >= 0 the clients' numbers
[users, items], such as their confidences, the server has S = B H. H is estimated by least squares around its
mean, then by alternating projections on the solutions of the equations and on what is possible: no number is
negative, nor larger than the largest. A sum of 0 thus clears a whole cohort.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

_RANK_TOLERANCE = 1e-9  # relative, of the eigenvalues of B B^T
_SOLVED = 1e-4  # relative residual at which the projections end
_OVERSHOOT = 1.5  # of a projection; 1 to 2 converges, and faster than 1


def members_of(
    cohorts: Int[np.ndarray, "rounds clients"], *, num_users: int
) -> Float[np.ndarray, "rounds users"]:
    """Return who takes part in which round, as 0 and 1; `num_users` is padding in `cohorts`."""
    members = np.zeros((len(cohorts), num_users + 1), np.float32)
    members[np.arange(len(cohorts))[:, None], cohorts] = 1.0
    return members[:, :num_users]


def solve_sums(
    members: Float[np.ndarray, "rounds users"],
    sums: Float[np.ndarray, "rounds items"],
    *,
    largest: float = np.inf,
    num_steps: int = 50,
) -> Float[np.ndarray, "users items"]:
    """Estimate the numbers of each client from the sums of all rounds.

    Args:
        members: B.
        sums: S.
        largest: of the numbers, which are then at least 0; inf: any number is possible.
        num_steps: most projections.
    """
    from scipy.sparse import csr_array

    by_round = csr_array(members.astype(np.float32))
    by_user, inverse = by_round.T.tocsr(), _inverse(members)
    mean = sums.sum(axis=0) / max(members.sum(), 1.0)
    solved = np.broadcast_to(mean, (members.shape[1], sums.shape[1])).astype(np.float32)
    size = np.linalg.norm(sums) + 1e-30
    for step in range(num_steps + 1 if np.isfinite(largest) else 1):
        missing = (sums - by_round @ solved).astype(np.float32)
        if np.linalg.norm(missing) < _SOLVED * size:
            break
        solved = solved + (_OVERSHOOT if step else 1.0) * (by_user @ (inverse @ missing))
        solved = np.clip(solved, 0.0, largest) if np.isfinite(largest) else solved
    return solved


def _inverse(members: Float[np.ndarray, "rounds users"]) -> Float[np.ndarray, "rounds rounds"]:
    """Compute the pseudo-inverse of B B^T."""
    values, vectors = np.linalg.eigh((members @ members.T).astype(np.float64))
    is_kept = values > _RANK_TOLERANCE * max(values.max(initial=0.0), 1.0)
    basis = vectors[:, is_kept]
    return ((basis / values[is_kept]) @ basis.T).astype(np.float32)


def find_held(
    estimates: Float[np.ndarray, "users items"], *, smallest: float
) -> Bool[np.ndarray, "users items"]:
    """Claim the items whose estimate is nearer to the smallest number of an item that is held than to 0."""
    return estimates > 0.5 * smallest


def scores_of_uploads(
    uploads: Float[np.ndarray, "users items factors"],
) -> Float[np.ndarray, "users items"]:
    """Score the items of estimated uploads e x^T by their length along x, the leading direction of each.

    Items that are held have the larger lengths; their side is that of the mean over all items.
    """
    grams = np.einsum("uik,uil->ukl", uploads, uploads, optimize=True).astype(np.float64)
    own = np.linalg.eigh(grams)[1][:, :, -1]
    scores = np.einsum("uik,uk->ui", uploads, own, optimize=True)
    return scores * np.where(scores.mean(axis=1, keepdims=True) < 0, -1.0, 1.0)
