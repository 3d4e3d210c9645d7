"""Leakage of a whole run under secure sums: of the sums of many rounds, and of the model itself.

Sums of confidences do not depend on Y, and the server knows who is in a cohort. The sums of all rounds are
therefore linear equations in the histories: the first table solves them by least squares, around the mean
history, and rounds to items held or not. Cohorts are shuffled, and the strengths binarised.

The second part asks whether the published item factors alone tell who took part. Shadow models are trained,
each on a random half of the users; the attacker compares the loss of a user's history at the model with its
losses at the other models trained with and without this user (a likelihood ratio of two normal distributions,
Carlini et al. 2022, arXiv:2112.03570). AUC 0.5 is chance.

    python benchmarks/leakage_over_rounds.py path/to/ml-100k --out leakage_over_rounds.json
"""

from typing import Any

import jax
import numpy as np
from common import MOVIELENS_100K, add_data_arguments, argument_parser, positive, publish, read_data, show
from jax import numpy as jnp
from jax.tree_util import Partial
from problem import ALPHA, GUARDED_GRAM, REGULARIZATION, Problem, problem_of

import fcf_jax as fcf
from fcf_jax.channel import Uploads, link
from fcf_jax.core.sampling import draw_cohort


def held_items(train: fcf.Interactions) -> np.ndarray:
    """Return which user holds which item, as 0 and 1 [users, items]."""
    held = np.zeros((train.num_users, train.num_items))
    held[train.user_ids, train.item_ids] = 1.0
    return held


def memberships(num_users: int, cohort_size: int, num_rounds: int) -> np.ndarray:
    """Return who takes part in which round, as 0 and 1 [rounds, users]."""
    members = np.zeros((num_rounds, num_users))
    for round_index in range(num_rounds):
        cohort = draw_cohort(
            jax.random.key(0), jnp.asarray(round_index), num_users=num_users, cohort_size=cohort_size
        )
        members[round_index, np.asarray(cohort.client_ids)] = 1.0
    return members


def solve_histories(members: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """Return whether each user holds each item, from the number of holders in each cohort [rounds, items]."""
    share = sums.sum(axis=0) / members.sum()
    away_from_mean = np.linalg.pinv(members) @ (sums - members.sum(axis=1)[:, None] * share)
    return away_from_mean + share > 0.5


def many_rounds(held: np.ndarray, *, cohort_size: int, num_rounds: list[int]) -> list[dict[str, Any]]:
    """Attack the sums of a run's rounds, for runs of several lengths."""
    members = memberships(len(held), cohort_size, max(num_rounds))
    rows = []
    for rounds in num_rounds:
        found = solve_histories(members[:rounds], members[:rounds] @ held)  # the sums over alpha, in float64
        right = (found & (held > 0)).sum()
        rows.append(
            {
                "rounds": rounds,
                "recall": float(right / held.sum()),
                "precision": float(right / max(found.sum(), 1)),
                "histories found exactly": int((found == (held > 0)).all(axis=1).sum()),
                "of": len(held),
            }
        )
    return rows


def _leave_out(is_member: jax.Array, key: jax.Array | None, state: tuple, uploads: Uploads) -> Uploads:
    return uploads._replace(weights=jnp.where(is_member[uploads.client_ids], uploads.weights, 0.0))


def shadow_models(problem: Problem, is_member: np.ndarray, *, num_rounds: int) -> np.ndarray:
    """Train a model on each row of `is_member` [models, users]; return [models, items, factors]."""
    trained = []
    for index, members in enumerate(is_member):
        channel = link(client=Partial(_leave_out, jnp.asarray(members)))
        federation, key = problem.federation(GUARDED_GRAM, channel=channel), jax.random.key(index)
        state = problem.start(federation, key)
        state, _ = fcf.run_rounds(federation, key, state, problem.clients, num_rounds=num_rounds)
        trained.append(np.asarray(state.item_factors))
    return np.stack(trained)


def losses(held: np.ndarray, item_factors: np.ndarray) -> np.ndarray:
    """Return min_x J(x) of each history [users] at these item factors, by dense float64."""
    y = item_factors.astype(np.float64)
    pairs = (y[:, :, None] * y[:, None, :]).reshape(len(y), -1)
    normal = (y.T @ y + REGULARIZATION * np.eye(y.shape[1])) + ALPHA * (held @ pairs).reshape(
        len(held), y.shape[1], -1
    )
    right = (1 + ALPHA) * held @ y
    x = np.linalg.solve(normal, right[:, :, None])[:, :, 0]
    return (1 + ALPHA) * held.sum(axis=1) - (x * right).sum(axis=1)


def likelihood_ratios(statistics: np.ndarray, is_member: np.ndarray) -> np.ndarray:
    """Return log p(in) / p(out) of each user at each model, fitted on all other models."""
    from scipy import stats

    ratios = np.empty_like(statistics)
    for target in range(len(statistics)):
        others = np.arange(len(statistics)) != target
        log_likelihood = {}
        for member in (True, False):
            masked = np.where(is_member[others] == member, statistics[others], np.nan)
            mean, std = np.nanmean(masked, axis=0), np.nanstd(masked, axis=0, ddof=1)
            log_likelihood[member] = stats.norm.logpdf(statistics[target], mean, std)
        ratios[target] = log_likelihood[True] - log_likelihood[False]
    return ratios


def membership(problem: Problem, held: np.ndarray, *, num_shadows: int, num_rounds: int) -> dict[str, Any]:
    """Attack each of the shadow models with the help of all others."""
    from scipy.stats import mannwhitneyu

    order = np.random.default_rng(0).random((num_shadows, len(held))).argsort(axis=0)
    is_member = order < num_shadows // 2  # each user is in exactly half of the models
    trained = shadow_models(problem, is_member, num_rounds=num_rounds)
    ratios = likelihood_ratios(np.stack([losses(held, one) for one in trained]), is_member)
    positive_ratios, negative = ratios[is_member], ratios[~is_member]
    auc = mannwhitneyu(positive_ratios, negative).statistic / (positive_ratios.size * negative.size)
    threshold = np.quantile(negative, 0.99)
    return {
        "models": num_shadows,
        "AUC": float(auc),
        "TPR at FPR .01": float((positive_ratios > threshold).mean()),
    }


def main() -> None:
    parser = argument_parser(__doc__)
    add_data_arguments(parser, MOVIELENS_100K)
    parser.add_argument("--cohort-size", type=positive, default=100)
    parser.add_argument("--num-rounds", type=positive, nargs="+", default=[60, 120, 240, 480, 1000])
    parser.add_argument("--num-factors", type=positive, default=25)
    parser.add_argument("--num-shadows", type=positive, default=48)
    parser.add_argument("--shadow-rounds", type=positive, default=30)
    arguments = parser.parse_args()
    interactions = read_data(arguments).binarized()
    held = held_items(interactions)
    rows = many_rounds(held, cohort_size=arguments.cohort_size, num_rounds=arguments.num_rounds)
    show(f"Sums of confidences over {arguments.cohort_size} clients, all rounds together", rows)
    problem = problem_of(interactions, num_factors=arguments.num_factors)
    model = membership(problem, held, num_shadows=arguments.num_shadows, num_rounds=arguments.shadow_rounds)
    show("Who took part, from the published item factors alone", [model])
    publish({"many_rounds": rows, "published_model": model}, arguments.out)


if __name__ == "__main__":
    main()
