"""Attacks of an audit on the sums of all planned rounds together."""

import numpy as np
from scipy.sparse import csr_array

from fcf_jax.experiments.audit.attacks import Figures, set_figures, top_items
from fcf_jax.experiments.audit.scene import Scene, send
from fcf_jax.experiments.config.mistakes import cohorts_drawn
from fcf_jax.privacy.attacks import figures, many_sums
from fcf_jax.privacy.attacks.knowledge import weigh

_LARGEST = 3e7  # numbers that are solved for: of some items, drawn at random, where there are more
_WORK = 2e11  # multiplications; large runs are attacked with fewer steps
_FEWEST_STEPS, _MOST_STEPS = 5, 50
_CHUNK = 1000  # clients whose uploads are computed at a time


def many_rounds(scene: Scene) -> Figures:
    """Solve the sums of all rounds that do not depend on Y for the histories, knowing the cohorts."""
    train, num_users = scene.train, scene.train.num_users
    members, items = _summed_clients(scene), _some_items(scene, _LARGEST / num_users)
    confidence, _ = weigh(scene.public, np.asarray(train.strengths, np.float64))
    extra = np.abs(confidence - scene.public.unobserved_weight)
    held = csr_array((extra, (train.user_ids, train.item_ids)), shape=(num_users, train.num_items))[:, items]
    work = members.shape[0] * len(items) * (members.shape[0] + 2 * scene.cohort_size)
    estimates = many_sums.solve_sums(
        members,
        (csr_array(members) @ held).toarray().astype(np.float32),
        largest=float(extra.max(initial=0.0)),
        num_steps=int(np.clip(_WORK / max(work, 1), _FEWEST_STEPS, _MOST_STEPS)),
    )
    claimed = many_sums.find_held(estimates[scene.user_ids], smallest=float(extra.min(initial=np.inf)))
    return set_figures(claimed, held[scene.user_ids].toarray() > 0)


def late_rounds(scene: Scene) -> Figures:
    """Solve the sums of uploads of all rounds for single uploads, as if Y stood still in them.

    The attacker claims as many items of a client as it holds.
    """
    train, num_factors = scene.train, scene.config.model.num_factors
    items = _some_items(scene, _LARGEST / train.num_users / num_factors)
    rows = [_rows_sent(scene, users, items) for users in _chunks(np.arange(train.num_users))]
    uploads = np.concatenate(rows).reshape(train.num_users, -1)
    members = _members(scene)
    estimates = many_sums.solve_sums(members, csr_array(members) @ uploads)[scene.user_ids]
    scores = many_sums.scores_of_uploads(estimates.reshape(-1, len(items), num_factors))
    held = train.to_scipy()[scene.user_ids][:, items].toarray() > 0
    found = set_figures(top_items(scores, held.sum(axis=1)), held)
    found["auc"] = figures.auc_across_users(scores, held)
    return found


def _rows_sent(scene: Scene, user_ids: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Compute the rows of these items in each upload, without the part that A reveals where it is sent."""
    sent = send(scene, user_ids)
    weights = sent.residuals[:, items]
    if scene.sends_gram:
        scores = sent.user_factors @ scene.public.item_factors[items].T
        weights = weights + scene.public.unobserved_weight * scores
    return (weights[:, :, None] * sent.user_factors[:, None, :]).astype(np.float32)


def _chunks(user_ids: np.ndarray) -> list[np.ndarray]:
    return np.array_split(user_ids, -(-len(user_ids) // _CHUNK))


def _some_items(scene: Scene, most: float) -> np.ndarray:
    """Draw some of the items that have interactions."""
    (items,) = np.nonzero(scene.train.item_counts)
    return np.sort(np.random.default_rng(0).permutation(items)[: max(int(most), 1)])


def _members(scene: Scene) -> np.ndarray:
    """Return the clients of each round, as 0 and 1 [rounds, users]."""
    federation, num_users = scene.config.federation, scene.train.num_users
    cohorts = cohorts_drawn(federation, seed=federation.seed, num_users=num_users)
    return many_sums.members_of(cohorts, num_users=num_users)


def _summed_clients(scene: Scene) -> np.ndarray:
    """Return the clients of each sum that does not depend on Y, as 0 and 1 [sums, users]."""
    sent = scene.config.sent_confidences
    if sent == "each_round":
        return _members(scene)
    return np.ones((int(sent == "once"), scene.train.num_users), np.float32)
