"""Leakage curve of an audit: against the size of the cohort, or against epsilon."""

from typing import Any

import numpy as np

from fcf_jax.experiments.audit import attacks
from fcf_jax.experiments.audit.scene import Scene, Sent, cohorts, send, signal_sizes, sum_of
from fcf_jax.privacy.accounting import calibrated_noise_multiplier
from fcf_jax.privacy.attacks import figures, noised_uploads, summed_uploads
from fcf_jax.privacy.limits import in_out_auc_ceiling, item_auc_ceiling

_SIZES = (5, 10, 20, 50, 100, 200, 500)
_EPSILONS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
_MAX_USERS = 60  # attacked for each point of the curve under noise
_NUM_COHORTS = 2


def leakage_curve(scene: Scene) -> list[dict[str, Any]]:
    """Measure leakage by epsilon under noise, otherwise by cohort size; a record for each point."""
    if scene.channel is not None:
        return _against_noise(scene)
    sizes = sorted({min(size, scene.train.num_users) for size in _SIZES})
    return [_at_size(scene, size) for size in sizes]


def _at_size(scene: Scene, size: int) -> dict[str, Any]:
    """Attack sums of `size` clients, with A fitted and with A known."""
    sent = [send(scene, user_ids) for user_ids in cohorts(scene, size, num_cohorts=_NUM_COHORTS)]
    point: dict[str, Any] = {"cohort_size": size}
    for name, knows_gram in (("fitted", False), ("knows_gram", True)):
        scores = []
        for one in sent:
            gram = one.user_factors.T @ one.user_factors
            seen = sum_of(scene, one)._replace(user_gram=gram)
            links, _ = attacks.links_of(scene, seen, knows_gram=knows_gram)
            scores.append(summed_uploads.score_links(links, one.is_held, one.user_factors.astype(np.float64)))
        correct, held = (np.concatenate([score[column] for score in scores]) for column in (0, 1))
        point[name] = figures.ratio(correct, held)._asdict()
    return point


def _against_noise(scene: Scene) -> list[dict[str, Any]]:
    sent = send(scene, scene.user_ids[:_MAX_USERS])
    return [
        {"epsilon": epsilon, **_at_noise(scene, sent, _noise_multiplier(scene, epsilon))}
        for epsilon in _EPSILONS
    ]


def _noise_multiplier(scene: Scene, epsilon: float) -> float:
    """Calibrate the noise of all rounds; for cohorts by RDP, which is fast and never underestimates.

    Single releases beside the rounds, which have noise of their own, are not attacked, and not counted.
    """
    participation = scene.protection.participation._replace(
        count_noise_multiplier=None, evaluation_noise_multiplier=None
    )
    return calibrated_noise_multiplier(
        participation,
        epsilon=epsilon,
        delta=scene.protection.delta,
        num_rounds=scene.num_rounds,
        accountant="pld" if participation.sampling == "everybody" else "rdp",
    )


def _at_noise(scene: Scene, sent: Sent, sigma: float) -> dict[str, Any]:
    """Attack participation at noise multiplier sigma; under local noise held items as well."""
    sizes = signal_sizes(scene, sent)
    point = {
        "noise_multiplier": sigma,
        "in_out": noised_uploads.membership(sizes, noise_multiplier=sigma)[0]._asdict(),
        "in_out_ceiling": in_out_auc_ceiling(sigma),
    }
    if scene.cohort_size == scene.train.num_users:
        auc, _ = noised_uploads.membership(sizes, noise_multiplier=sigma, num_rounds=scene.num_rounds)
        point["all_rounds"] = auc._asdict()
        point["all_rounds_ceiling"] = in_out_auc_ceiling(sigma, scene.num_rounds)
    if scene.config.privacy.spec.noise_on != "upload":
        return point
    scores = attacks.noisy_scores(scene, sent, noise_scale=sigma * scene.config.privacy.clip_norm)
    items = figures.auc_across_users(scores, sent.is_held)._asdict()
    return point | {"items": items, "items_ceiling": item_auc_ceiling(sigma)}
