"""Attacks of an audit, each returning figures: numbers over users with their confidence intervals."""

import numpy as np
from jax import numpy as jnp

from fcf_jax.experiments.audit.bounds import TPR
from fcf_jax.experiments.audit.scene import (
    LARGEST_SUM,
    Scene,
    Seen,
    Sent,
    clip_factors,
    cohorts,
    send,
    signal_sizes,
    sum_of,
)
from fcf_jax.privacy.attacks import decoded_sums, figures, noised_uploads, single_upload, summed_uploads
from fcf_jax.privacy.attacks.figures import Figure
from fcf_jax.privacy.attacks.knowledge import weigh
from fcf_jax.privacy.limits import in_out_auc_ceiling, item_auc_ceiling

Figures = dict[str, Figure]
_FRACTION_BITS = 16  # of uploads in a secure sum
_FLOAT_ERROR = 1e-6  # of float32 sums, relative to their terms
_CHUNK = 50  # clients whose dense uploads are in memory at a time
_NUM_COHORTS = 3
_TOLERANCE = 0.01  # relative error of a strength that counts as found


def plain_upload(scene: Scene, *, form: str) -> Figures:
    """Attack uploads one by one: dense, as the pair (e, x), or by the rows of Y that were asked for."""
    found = []
    for sent in _sent_in_chunks(scene):
        if form == "dense":
            found.append(single_upload.attack_dense(scene.public, jnp.asarray(_dense(sent))))
            continue
        pairs = single_upload.attack_rank_one(scene.public, sent.residuals, sent.user_factors)
        # the rows that a client asks for are those of its history
        found.append(pairs._replace(is_held=sent.is_held) if form == "own_rows" else pairs)
    return _recovery_figures(scene, found)


def differencing(scene: Scene) -> Figures:
    """Attack the difference of sums over two cohorts that differ by one client: its upload in fixed point."""
    quantum, found = 2.0**-_FRACTION_BITS, []
    for sent in _sent_in_chunks(scene):
        uploads = jnp.asarray(np.round(_dense(sent) / quantum) * quantum, jnp.float32)
        found.append(single_upload.attack_dense(scene.public, uploads, quantum=quantum))
    return _recovery_figures(scene, found)


def _dense(sent: Sent) -> np.ndarray:
    """Multiply out the uploads, [clients, items, factors]."""
    return sent.residuals[:, :, None] * sent.user_factors[:, None, :]


def _sent_in_chunks(scene: Scene) -> list[Sent]:
    pieces = np.array_split(scene.user_ids, -(-len(scene.user_ids) // _CHUNK))
    return [send(scene, piece) for piece in pieces]


def _recovery_figures(scene: Scene, found: list[single_upload.Recovered]) -> Figures:
    recovered = single_upload.Recovered(*(np.concatenate(column) for column in zip(*found, strict=True)))
    sent = send(scene, scene.user_ids)
    ones = np.ones(len(sent.is_held))
    is_right = recovered.is_held & sent.is_held
    truth = np.where(is_right, sent.strengths, 1.0)
    errors = np.where(is_right, np.abs(np.nan_to_num(recovered.strengths, nan=np.inf) - truth), 0.0)
    errors /= np.maximum(np.abs(truth), 1e-12)
    lengths = np.linalg.norm(recovered.user_factors, axis=1) * np.linalg.norm(sent.user_factors, axis=1)
    cosine = np.abs((recovered.user_factors * sent.user_factors).sum(axis=1)) / np.maximum(lengths, 1e-300)
    near = (is_right & (errors <= _TOLERANCE)).sum(axis=1)
    return {
        **set_figures(recovered.is_held, sent.is_held),
        **_score_figures(np.abs(recovered.deviations), sent.is_held, ceiling=1.0),
        "strength_rate": figures.ratio(near, sent.is_held.sum(axis=1)),
        "strength_error": figures.ratio(errors.sum(axis=1), is_right.sum(axis=1)),
        "cosine": figures.ratio(cosine, ones),
        "consistent_rate": figures.ratio(recovered.is_consistent.astype(float), ones),
    }


def set_figures(is_claimed: np.ndarray, is_held: np.ndarray) -> Figures:
    """Compare claimed items with those that each client holds, [clients, items]."""
    right, claimed, held = (mask.sum(axis=1) for mask in (is_claimed & is_held, is_claimed, is_held))
    exact = (is_claimed == is_held).all(axis=1)
    return {
        "exact_set_rate": figures.ratio(exact.astype(float), np.ones(len(exact))),
        "precision": figures.ratio(right, claimed),
        "recall": figures.ratio(right, held),
        "f1": figures.ratio(2.0 * right, claimed + held),
    }


def _score_figures(scores: np.ndarray, is_held: np.ndarray, *, ceiling: float) -> Figures:
    return {
        "auc": figures.auc_across_users(scores, is_held),
        "auc_ceiling": figures.exactly(ceiling),
        TPR: figures.true_positive_rate(scores, is_held),
    }


def noisy_uploads(scene: Scene, *, num_rounds: int = 1) -> Figures:
    """Attack uploads with local noise, or the mean of `num_rounds` uploads for one frozen model.

    The figures are those of the better of two attackers: the client's own direction is the first to be lost
    in noise.
    """
    sent, sigma = send(scene, scene.user_ids), scene.noise_multiplier
    scores = noisy_scores(scene, sent, noise_scale=scene.noise_scale / num_rounds**0.5)
    ceiling = item_auc_ceiling(sigma, num_rounds)
    auc, tpr = noised_uploads.membership(
        signal_sizes(scene, sent), noise_multiplier=sigma, num_rounds=num_rounds
    )
    return {
        **set_figures(top_items(scores, sent.is_held.sum(axis=1)), sent.is_held),
        **_score_figures(scores, sent.is_held, ceiling=ceiling),
        "in_out_auc": auc,
        "in_out_auc_ceiling": figures.exactly(in_out_auc_ceiling(sigma, num_rounds)),
        f"in_out_{TPR}": tpr,
    }


def noisy_scores(scene: Scene, sent: Sent, *, noise_scale: float) -> np.ndarray:
    """Score how likely each client holds each item, from clipped uploads with noise of this scale."""
    rng, shares = np.random.default_rng(0), scene.train.item_counts / scene.train.num_users
    mean, expected = noised_uploads.expected_factors(scene.public, shares)
    clip, found = clip_factors(scene, sent)[:, None], []
    for some in np.array_split(np.arange(len(clip)), -(-len(clip) // _CHUNK)):
        clipped = (clip * sent.residuals)[some, :, None] * sent.user_factors[some, None, :]
        noised = clipped + noise_scale * rng.standard_normal(clipped.shape, np.float32)
        by_own = noised_uploads.scores_by_own_direction(noised, mean)
        found.append((noised_uploads.scores_by_expectation(noised, expected), by_own))
    attackers = [np.concatenate(scores) for scores in zip(*found, strict=True)]
    return max(attackers, key=lambda scores: figures.auc_across_users(scores, sent.is_held).value)


def top_items(scores: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Claim the items with the highest scores, `counts` of each client."""
    ranks = np.argsort(np.argsort(-scores, axis=1, kind="stable"), axis=1, kind="stable")
    return ranks < counts[:, None]


def popularity(scene: Scene) -> Figures:
    """Guess the most popular items, as many as the client holds: a baseline that uses no upload."""
    is_held = send(scene, scene.user_ids).is_held
    scores = np.broadcast_to(scene.train.item_counts.astype(float), is_held.shape)
    claimed = top_items(scores, is_held.sum(axis=1))
    return {**set_figures(claimed, is_held), "auc": figures.auc_across_users(scores, is_held)}


def sums(scene: Scene) -> Figures:
    """Attack sums of cohorts: find the items that any client touched, and link those of one client."""
    size = min(scene.cohort_size, LARGEST_SUM)
    sent = [send(scene, user_ids) for user_ids in cohorts(scene, size, num_cohorts=_NUM_COHORTS)]
    seen = [sum_of(scene, one) for one in sent]
    scores, touched = _link(scene, sent, seen, knows_gram=seen[0].user_gram is not None)
    found = {**_union_figures(sent, touched), **_link_figures(sent, scores)}
    if seen[0].user_gram is not None:  # what the attack finds if A is not sent
        fitted, _ = _link(scene, sent, seen, knows_gram=False)
        found |= {f"fitted_{name}": _link_figures(sent, fitted)[name] for name in ("precision", "recall")}
    return found if scene.channel is None else found | _in_out(scene)


def averaged_sums(scene: Scene) -> Figures:
    """Attack participation in all rounds together, with all clients in each and one frozen model."""
    return _in_out(scene, num_rounds=scene.num_rounds)


def _in_out(scene: Scene, *, num_rounds: int = 1) -> Figures:
    sigma, sizes = scene.noise_multiplier, signal_sizes(scene, send(scene, scene.user_ids))
    auc, tpr = noised_uploads.membership(sizes, noise_multiplier=sigma, num_rounds=num_rounds)
    ceiling = figures.exactly(in_out_auc_ceiling(sigma, num_rounds))
    return {"auc": auc, "auc_ceiling": ceiling, TPR: tpr}


def links_of(scene: Scene, seen: Seen, *, knows_gram: bool) -> tuple[summed_uploads.Links, np.ndarray]:
    """Link the items of a sum to pseudonyms.

    Args:
        scene: setting of the audit.
        seen: what the server receives.
        knows_gram: whether A is read from `seen`, or fitted to the upload.

    Returns:
        The links, and for each item whether any client touched it.
    """
    fitted = seen.user_gram if knows_gram else summed_uploads.fit_user_gram(scene.public, seen.upload)
    assert fitted is not None
    noise = scene.noise_scale + scene.quantum / 2
    residuals, is_touched = summed_uploads.touched_parts(scene.public, seen.upload, fitted, noise=noise)
    links = summed_uploads.take_apart(
        summed_uploads.link_parallel(residuals, is_touched), residuals, is_touched
    )
    if scene.channel is not None:
        return links, is_touched
    if seen.confidence_sum is not None:
        is_touched = np.abs(seen.confidence_sum) > 0  # c - w0 shows exactly which items are touched
    if knows_gram and scene.common_strength is not None:
        decoded = _decoded(scene, seen, residuals, is_touched)
        links = summed_uploads.Links(*(np.concatenate(pair) for pair in zip(links, decoded, strict=True)))
    return links, is_touched


def _decoded(scene: Scene, seen: Seen, residuals: np.ndarray, is_touched: np.ndarray) -> summed_uploads.Links:
    """Decode the holders of the items, from counts too if confidences are sent."""
    public, strength, counts = scene.public, scene.common_strength, None
    assert strength is not None
    confidence, _ = weigh(public, np.array([strength]))
    extra = float(confidence[0]) - public.unobserved_weight
    if seen.confidence_sum is not None and extra:
        counts = np.round(np.asarray(seen.confidence_sum, np.float64) / extra).astype(np.int64)
    size = 2 * np.linalg.norm(residuals - seen.upload, axis=1) + np.linalg.norm(residuals, axis=1)
    rounded = np.sqrt(residuals.shape[1] / 12 * (4 if counts is None else np.maximum(counts, 1)))
    errors = _FLOAT_ERROR * size + scene.quantum * rounded
    equations = decoded_sums.equations_of(public, residuals, errors, strength=strength, counts=counts)
    return decoded_sums.decode(equations, is_touched)


def _link(
    scene: Scene, sent: list[Sent], seen: list[Seen], *, knows_gram: bool
) -> tuple[list[summed_uploads.LinkScore], list[np.ndarray]]:
    pairs = [links_of(scene, one, knows_gram=knows_gram) for one in seen]
    scores = [
        summed_uploads.score_links(links, truth.is_held, truth.user_factors.astype(np.float64))
        for (links, _), truth in zip(pairs, sent, strict=True)
    ]
    return scores, [touched for _, touched in pairs]


def _link_figures(sent: list[Sent], scores: list[summed_uploads.LinkScore]) -> Figures:
    correct, held, claimed, cosine = (
        np.concatenate([one[column] for one in scores]).astype(float) for column in range(4)
    )
    counts = [figures.wins_across_users(s.claims, t.is_held) for s, t in zip(scores, sent, strict=True)]
    wins, pairs = (np.concatenate([one[side].sum(axis=1) for one in counts]) for side in (0, 1))
    return {
        "precision": figures.ratio(correct, claimed),
        "recall": figures.ratio(correct, held),
        "f1": figures.ratio(2 * correct, claimed + held),
        "cosine": figures.ratio(cosine, np.ones(len(cosine))),
        "auc": figures.ratio(wins, pairs),
        "auc_ceiling": figures.exactly(1.0),
    }


def _union_figures(sent: list[Sent], touched: list[np.ndarray]) -> Figures:
    found = np.concatenate([(t.is_held & mine).sum(axis=1) for t, mine in zip(sent, touched, strict=True)])
    held = np.concatenate([one.is_held.sum(axis=1) for one in sent])
    claimed, union = np.concatenate(touched), np.concatenate([one.is_held.any(axis=0) for one in sent])
    return {
        "union_recall": figures.ratio(found, held),
        "union_precision": figures.ratio(claimed & union, claimed),
    }
