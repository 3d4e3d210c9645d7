"""Leakage of uploads and of their sums, against the size of the cohort.

One upload of each of some users, for binarised and raw strengths; then the share of interactions that sums of
Theta clients link to one pseudonymous client: by L1 regression; by knowing A = sum x x^T (which sending
user_gram reveals); the latter with mixed residuals taken apart; with all residuals decoded exactly, without
and with the number of holders of each item (which the sum of confidences reveals), and in fixed point.
Cohorts are drawn at random, three of each size; item factors after 10 rounds. Prints as it goes.

    python benchmarks/leakage.py path/to/ml-1m --out leakage.json
    python benchmarks/leakage.py                # 3000 simulated users x 2000 items, 50 items a user
"""

from typing import Any

import jax
import numpy as np
from common import Shape, add_data_arguments, argument_parser, positive, publish, read_data
from problem import ALPHA, REGULARIZATION, default_model, problem_of, train_item_factors

import fcf_jax as fcf
from fcf_jax.privacy.attacks import decoded_sums, figures, knowledge, single_upload, summed_uploads
from fcf_jax.privacy.attacks.knowledge import Public

CHUNK = 50
FRACTION_BITS = 14  # of uploads of 100 clients in a secure sum, with the default bounds
FLOAT_ERROR = 1e-6  # of float32 sums, relative to their terms
ATTACKS = ("simple", "knows_gram", "takes_apart", "decodes", "knows_counts", "in_fixed_point")
SIMULATED = Shape(3000, 2000, 50.0)


def know(train: fcf.Interactions, num_factors: int) -> Public:
    """Train for some rounds, and return what the server then knows."""
    item_factors = train_item_factors(problem_of(train, num_factors=num_factors))
    return Public(np.asarray(item_factors, np.float64), REGULARIZATION, 1.0, ALPHA)


def send(train: fcf.Interactions, public: Public, user_ids: np.ndarray) -> knowledge.RankOneUploads:
    """Compute what these clients send."""
    item_factors = jax.numpy.asarray(public.item_factors, jax.numpy.float32)
    return knowledge.uploads_of(default_model(), item_factors, knowledge.histories(train, user_ids))


def of_one_upload(train: fcf.Interactions, public: Public, user_ids: np.ndarray) -> dict[str, Any]:
    """Attack dense uploads; strengths within 1 % of the truth count as exact."""
    sets, strengths, checked = [], [], []
    for some in np.array_split(user_ids, -(-len(user_ids) // CHUNK)):
        found = single_upload.attack_dense(public, send(train, public, some).dense)
        is_held, truth = knowledge.held_and_strengths(train, some)
        sets += list((found.is_held == is_held).all(axis=1))
        near = np.abs(np.nan_to_num(found.strengths) - truth) <= 0.01 * truth
        strengths += list((near & (found.is_held == is_held)).all(axis=1))
        checked += list(found.is_consistent)
    rates = {"exact_set": sets, "exact_set_and_strengths": strengths, "solves_to_x": checked}
    return {name: figures.ratio(np.array(one), np.ones(len(one)))._asdict() for name, one in rates.items()}


def of_sums(train: fcf.Interactions, public: Public, size: int, num_cohorts: int) -> dict[str, Any]:
    """Attack sums of `size` random clients; the intervals are over clients."""
    rng, scores = np.random.default_rng(size), {name: [] for name in ATTACKS}
    for _ in range(num_cohorts):
        user_ids = rng.choice(train.num_users, size, replace=False)
        parts = [send(train, public, some) for some in np.array_split(user_ids, -(-size // CHUNK))]
        e = np.concatenate([np.asarray(one.residuals) for one in parts])
        x = np.concatenate([np.asarray(one.user_factors) for one in parts])
        held = knowledge.held_and_strengths(train, user_ids)[0]
        for name, links in attacks_on(public, e, x, held).items():
            scores[name].append(summed_uploads.score_links(links, held, x.astype(np.float64)))
    return {"cohort_size": size} | {
        name: {
            "linked": figures.ratio(of_clients(of, "correct"), of_clients(of, "held"))._asdict(),
            "right": figures.ratio(of_clients(of, "correct"), of_clients(of, "claimed"))._asdict(),
        }
        for name, of in scores.items()
    }


def attacks_on(
    public: Public, e: np.ndarray, x: np.ndarray, held: np.ndarray
) -> dict[str, summed_uploads.Links]:
    """Attack the sum of uploads e x^T in every way."""
    upload, gram = e.T @ x, x.T @ x  # float32
    fitted = summed_uploads.touched_parts(public, upload, summed_uploads.fit_user_gram(public, upload))
    residuals, is_touched = summed_uploads.touched_parts(public, upload, gram)
    links = summed_uploads.link_parallel(residuals, is_touched)
    size, counts = (
        np.linalg.norm(upload, axis=1) + np.linalg.norm(residuals - upload, axis=1),
        held.sum(axis=0),
    )
    quantum, rounded = 2.0**-FRACTION_BITS, np.zeros(upload.shape)
    for weights, factor in zip((e + x @ public.item_factors.T) * held, x, strict=True):  # w0 = 1
        rounded += np.round(weights[:, None] * factor / quantum) * quantum
    errors = quantum * np.sqrt(x.shape[1] / 12 * np.maximum(counts, 1))

    def decoded(rests: np.ndarray, errors: np.ndarray, counts: np.ndarray | None) -> summed_uploads.Links:
        equations = decoded_sums.equations_of(public, rests, errors, counts=counts)
        return decoded_sums.decode(equations, is_touched if counts is None else counts > 0)

    return {
        "simple": summed_uploads.link_parallel(*fitted),
        "knows_gram": links,
        "takes_apart": summed_uploads.take_apart(links, residuals, is_touched),
        "decodes": decoded(residuals, FLOAT_ERROR * size, None),
        "knows_counts": decoded(residuals, FLOAT_ERROR * size, counts),
        "in_fixed_point": decoded(rounded, errors, counts),
    }


def of_clients(scores: list[summed_uploads.LinkScore], name: str) -> np.ndarray:
    return np.concatenate([getattr(score, name) for score in scores])


def row(result: dict[str, Any]) -> dict[str, Any]:
    return {"Theta": result["cohort_size"]} | {
        f"{name} {what}": result[name][what]["value"] for name in ATTACKS for what in ("linked", "right")
    }


def print_row(values: dict[str, Any]) -> None:
    cells = (f"{value:.3f}" if isinstance(value, float) else str(value) for value in values.values())
    print("  ".join(f"{name} {cell}" for name, cell in zip(values, cells, strict=True)), flush=True)


def main() -> None:
    parser = argument_parser(__doc__)
    add_data_arguments(parser, SIMULATED)
    parser.add_argument("--num-factors", type=positive, default=25)
    parser.add_argument("--cohort-sizes", type=positive, nargs="*", default=[5, 10, 20, 50, 100, 200, 500])
    parser.add_argument("--num-cohorts", type=positive, default=3)
    parser.add_argument("--max-users", type=positive, default=300, help="whose single uploads are attacked")
    arguments = parser.parse_args()
    train = fcf.split_per_user(read_data(arguments), test_fraction=0.2, seed=0).train
    user_ids = np.random.default_rng(0).permutation(train.num_users)[: arguments.max_users]
    data = {"raw": train, "binarised": train.binarized()}
    known = {name: know(histories, arguments.num_factors) for name, histories in data.items()}
    singles, sums = {}, []
    for name, histories in data.items():
        singles[name] = of_one_upload(histories, known[name], user_ids)
        print_row({"one upload": name} | {what: one["value"] for what, one in singles[name].items()})
    for size in arguments.cohort_sizes:
        sums.append(of_sums(data["binarised"], known["binarised"], size, arguments.num_cohorts))
        print_row(row(sums[-1]))
    publish({"single_upload": singles, "sums": sums}, arguments.out)


if __name__ == "__main__":
    main()
