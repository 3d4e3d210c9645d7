"""Leakage of a whole run under secure sums: of the sums of many rounds, and of the model itself.

Sums of confidences do not depend on Y, and the server knows who is in a cohort. The sums of all rounds are
therefore linear equations in the histories: the first table solves them by least squares and alternating
projections (`fcf_jax.privacy.attacks.many_sums`), and rounds to items held or not. Cohorts are shuffled, and
the strengths binarised. "hidden among" is 1 / the largest leverage.

The second table solves the sums of uploads as if Y stood still, in the first rounds of a run with running
sums and in as many rounds after the longest run; for some items, of which the attacker claims as many
interactions as there are. The last row ranks by popularity.

The third asks whether the published item factors alone tell who took part
(`fcf_jax.privacy.attacks.published_model`). AUC 0.5 is chance.

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
from fcf_jax.channel import Uploads, chain, confidences_once, link
from fcf_jax.core.federation import cohort_rows
from fcf_jax.core.records import CohortSum
from fcf_jax.core.sampling import draw_cohorts
from fcf_jax.privacy.attacks import figures, many_sums, published_model
from fcf_jax.privacy.attacks.knowledge import Public
from fcf_jax.privacy.secure_sum.combinations import leverages

RUNNING_SUMS = fcf.optimizers.running_sums()


def held_items(train: fcf.Interactions) -> np.ndarray:
    """Return which user holds which item, as 0 and 1 [users, items]."""
    held = np.zeros((train.num_users, train.num_items))
    held[train.user_ids, train.item_ids] = 1.0
    return held


def draw_members(num_users: int, cohort_size: int, num_rounds: int) -> np.ndarray:
    """Return who takes part in which round, as 0 and 1 [rounds, users]."""
    cohorts = draw_cohorts(
        jax.random.key(0),
        jnp.asarray(0),
        num_rounds=num_rounds,
        num_users=num_users,
        cohort_size=cohort_size,
        sampling="shuffled",
    )
    return many_sums.members_of(np.asarray(cohorts.client_ids), num_users=num_users)


def of_confidences(held: np.ndarray, *, cohort_size: int, num_rounds: list[int]) -> list[dict[str, Any]]:
    """Attack the sums of confidences over alpha of runs of several lengths: the numbers of holders."""
    members, is_held = draw_members(len(held), cohort_size, max(num_rounds)), held > 0
    rows = []
    for rounds in num_rounds:
        some = members[:rounds]
        estimates = many_sums.solve_sums(some, (some @ held).astype(np.float32), largest=1.0)
        found = many_sums.find_held(estimates, smallest=1.0)
        right, cohorts = (found & is_held).sum(), [np.flatnonzero(row) for row in some]
        hidden = 1 / leverages(np.stack(cohorts), num_users=len(held)).max()
        rows.append(
            {
                "clients in a sum": cohort_size,
                "rounds": rounds,
                "hidden among": float(hidden),
                "recall": float(right / is_held.sum()),
                "precision": float(right / max(found.sum(), 1)),
                "histories found exactly": int((found == is_held).all(axis=1).sum()),
                "of": len(held),
            }
        )
        show_progress(rows[-1])
    return rows


def _kept(key: jax.Array, state: tuple, sums: CohortSum) -> tuple[CohortSum, tuple]:
    return sums, (sums.upload, sums.user_gram)


def record(
    problem: Problem, items: np.ndarray, *, cohort_size: int, num_rounds: int
) -> tuple[np.ndarray, np.ndarray]:
    """Train with running sums, confidences sent once, and keep what the server sees of some items.

    Returns:
        F + Y S of these items [rounds, items * factors], and the user ids of each round.
    """
    shape, counts = (problem.num_items, problem.num_factors), problem.clients.item_counts
    keep = link(init=lambda: (jnp.zeros(shape), jnp.zeros(shape[1:] * 2)), server=_kept)
    once = confidences_once(ALPHA * counts, num_users=problem.clients.row_counts.size)
    federation = problem.federation(RUNNING_SUMS, cohort_size=cohort_size, channel=chain(keep, once))
    key = jax.random.key(0)
    state, seen, cohorts = federation.init(key), [], []
    capacity = cohort_rows(federation, key, state, problem.clients, num_rounds=num_rounds)
    run = jax.jit(lambda state, clients: federation.round(key, state, clients, row_capacity=capacity))
    for _ in range(num_rounds):
        before = state.item_factors
        state, info = run(state, problem.clients)
        upload, gram = state.channel_state[0]
        seen.append(np.asarray(upload + before @ gram)[items].ravel())
        cohorts.append(np.asarray(info.client_ids))
    return np.array(seen), np.array(cohorts)


def of_uploads(
    problem: Problem, held: np.ndarray, *, cohort_size: int, num_rounds: list[int], num_items: int
) -> list[dict[str, Any]]:
    """Attack the sums of uploads as if Y stood still: of the first rounds, and as many after the longest run.

    Only some items are attacked. The attacker claims as many interactions of them as there are.
    """
    counts, longest = held.sum(axis=0), max(num_rounds)
    items = np.random.default_rng(0).permutation(np.flatnonzero(counts))[:num_items]
    seen, cohorts = record(problem, items, cohort_size=cohort_size, num_rounds=2 * longest)
    truth = held[:, items] > 0
    rows = []
    for start in (0, longest):
        for rounds in num_rounds:
            span = slice(start, start + rounds)
            members = many_sums.members_of(cohorts[span], num_users=len(held))
            estimates = many_sums.solve_sums(members, seen[span])
            scores = many_sums.scores_of_uploads(estimates.reshape(len(held), len(items), -1))
            rows.append({"from round": start, "rounds": rounds, **_claims(scores, truth)})
            show_progress(rows[-1])
    popularity = np.broadcast_to(counts[items], truth.shape)
    return [*rows, {"from round": np.nan, "rounds": np.nan, **_claims(popularity, truth)}]


def _claims(scores: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    threshold = np.sort(scores.ravel())[-truth.sum()]
    found = scores >= threshold
    auc = figures.auc_across_users(np.asarray(scores, float), truth).value
    return {"precision": float((found & truth).sum() / found.sum()), "AUC across users": auc}


def show_progress(row: dict[str, Any]) -> None:
    """Print a row as soon as it is known."""
    print("  ".join(f"{name} {value:.4g}" for name, value in row.items()), flush=True)


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


def membership(
    problem: Problem, train: fcf.Interactions, *, num_shadows: int, num_rounds: int
) -> dict[str, Any]:
    """Attack each of the shadow models with the help of all others."""
    is_member = published_model.draw_halves(num_shadows, train.num_users)
    losses = [
        published_model.losses_of(Public(one.astype(np.float64), REGULARIZATION, 1.0, ALPHA), train)
        for one in shadow_models(problem, is_member, num_rounds=num_rounds)
    ]
    found = published_model.membership_of(np.stack(losses), is_member)
    return {"models": num_shadows, "AUC": found.auc.value, "TPR at FPR .01": found.tpr.value}


def main() -> None:
    parser = argument_parser(__doc__)
    add_data_arguments(parser, MOVIELENS_100K)
    parser.add_argument("--cohort-sizes", type=positive, nargs="+", default=[100])
    parser.add_argument("--num-rounds", type=positive, nargs="+", default=[9, 60, 120, 240, 480, 1000])
    parser.add_argument("--num-factors", type=positive, default=25)
    parser.add_argument("--num-items", type=positive, default=150, help="whose uploads are attacked")
    parser.add_argument("--num-shadows", type=positive, default=48)
    parser.add_argument("--shadow-rounds", type=positive, default=30)
    arguments = parser.parse_args()
    interactions = read_data(arguments).binarized()
    held, rounds = held_items(interactions), arguments.num_rounds
    confidences = [
        row
        for size in arguments.cohort_sizes
        for row in of_confidences(held, cohort_size=size, num_rounds=rounds)
    ]
    show("Sums of confidences, all rounds together", confidences)
    problem = problem_of(interactions, num_factors=arguments.num_factors)
    size, num_items = arguments.cohort_sizes[0], arguments.num_items
    uploads = of_uploads(problem, held, cohort_size=size, num_rounds=rounds, num_items=num_items)
    show(f"Sums of uploads over {size} clients, as if Y stood still", uploads)
    model = membership(
        problem, interactions, num_shadows=arguments.num_shadows, num_rounds=arguments.shadow_rounds
    )
    show("Who took part, from the published item factors alone", [model])
    publish({"many_rounds": confidences, "uploads": uploads, "published_model": model}, arguments.out)


if __name__ == "__main__":
    main()
