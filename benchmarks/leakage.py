"""Measure what uploads and their sums give away, against the size of the cohort.

One upload of each of some users, for binarised and raw strengths; then the share of interactions
that sums of Theta clients link to one pseudonymous client: by L1 regression, knowing A = sum x x^T
(what sending user_gram gives away), and the latter with mixed residuals taken apart. Cohorts are
drawn at random, three of each size; item factors after 10 rounds. Prints as it goes.

    python benchmarks/leakage.py path/to/ml-1m --out leakage.json
    python benchmarks/leakage.py                # 3000 simulated users x 2000 items, 50 items a user
"""

import argparse
from pathlib import Path

import jax
import numpy as np

import fcf_jax as fcf
from fcf_jax.data import simulate_taste
from fcf_jax.experiments import timed_runs, timing
from fcf_jax.privacy.attacks import figures, knowledge, single_upload, summed_uploads
from fcf_jax.privacy.attacks.knowledge import Public

ALPHA, REGULARIZATION, CHUNK = 4.0, 1.0, 50


def know(train: fcf.Interactions, num_factors: int) -> Public:
    """Train for some rounds; what the server then knows."""
    model = {"num_items": train.num_items, "num_factors": num_factors, "regularization": REGULARIZATION}
    weighting = fcf.implicit_feedback(alpha=ALPHA)
    item_factors = timed_runs.trained(weighting, fcf.batch_clients(train), **model)
    return Public(np.asarray(item_factors, np.float64), REGULARIZATION, 1.0, ALPHA)


def send(train: fcf.Interactions, public: Public, user_ids: np.ndarray) -> knowledge.Uploads:
    item_factors = jax.numpy.asarray(public.item_factors, jax.numpy.float32)
    clients, weighting = knowledge.histories(train, user_ids), fcf.implicit_feedback(alpha=ALPHA)
    return knowledge.uploads_of(item_factors, clients, weighting, REGULARIZATION)


def of_one_upload(train: fcf.Interactions, public: Public, user_ids: np.ndarray) -> dict:
    """Attack dense uploads; strengths are exact within 1 %."""
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


def of_sums(train: fcf.Interactions, public: Public, size: int, num_cohorts: int) -> dict:
    """Attack sums of `size` random clients; intervals over clients."""
    rng, scores = np.random.default_rng(size), {"simple": [], "knows_gram": [], "takes_apart": []}
    for _ in range(num_cohorts):
        user_ids = rng.choice(train.num_users, size, replace=False)
        parts = [send(train, public, some) for some in np.array_split(user_ids, -(-size // CHUNK))]
        e = np.concatenate([np.asarray(one.residuals) for one in parts])
        x = np.concatenate([np.asarray(one.user_factors) for one in parts])
        upload, gram = e.T @ x, x.T @ x  # float32
        truth = knowledge.held_and_strengths(train, user_ids)[0], x.astype(np.float64)
        fitted = summed_uploads.touched_parts(public, upload, summed_uploads.fit_user_gram(public, upload))
        known = summed_uploads.touched_parts(public, upload, gram)
        links = summed_uploads.link_parallel(*known)
        scores["simple"].append(summed_uploads.score_links(summed_uploads.link_parallel(*fitted), *truth))
        scores["knows_gram"].append(summed_uploads.score_links(links, *truth))
        scores["takes_apart"].append(
            summed_uploads.score_links(summed_uploads.take_apart(links, *known), *truth)
        )
    return {"cohort_size": size} | {
        name: {
            "linked": figures.ratio(of_clients(of, "correct"), of_clients(of, "held"))._asdict(),
            "right": figures.ratio(of_clients(of, "correct"), of_clients(of, "claimed"))._asdict(),
        }
        for name, of in scores.items()
    }


def of_clients(scores: list[summed_uploads.LinkScore], name: str) -> np.ndarray:
    return np.concatenate([getattr(score, name) for score in scores])


def row(result: dict) -> dict:
    return {"Theta": result["cohort_size"]} | {
        f"{name} {what}": result[name][what]["value"]
        for name in ("simple", "knows_gram", "takes_apart")
        for what in ("linked", "right")
    }


def say(figures_of_one: dict) -> None:
    cells = (f"{v:.3f}" if isinstance(v, float) else str(v) for v in figures_of_one.values())
    print("  ".join(f"{name} {cell}" for name, cell in zip(figures_of_one, cells, strict=True)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("path", nargs="?", help="a data set that fcf_jax reads; without: simulated")
    parser.add_argument("--num-factors", type=int, default=25)
    parser.add_argument("--cohort-sizes", type=int, nargs="*", default=[5, 10, 20, 50, 100, 200, 500])
    parser.add_argument("--num-cohorts", type=int, default=3)
    parser.add_argument("--max-users", type=int, default=300, help="whose single uploads are attacked")
    parser.add_argument("--out", type=Path, help="where to write JSON")
    arguments = parser.parse_args()
    if arguments.path is None:
        interactions = simulate_taste(num_users=3000, num_items=2000, mean_history=50, seed=0)
    else:
        interactions, _ = fcf.read_interactions(arguments.path)
    train = fcf.split_per_user(interactions, test_fraction=0.2, seed=0).train
    user_ids = np.random.default_rng(0).permutation(train.num_users)[: arguments.max_users]
    singles, sums = {}, []
    for name, data in {"raw": train, "binarised": train.binarized()}.items():
        public = know(data, arguments.num_factors)
        singles[name] = of_one_upload(data, public, user_ids)
        say({"one upload": name} | {what: one["value"] for what, one in singles[name].items()})
    for size in arguments.cohort_sizes:  # of binarised strengths
        sums.append(of_sums(train.binarized(), public, size, arguments.num_cohorts))
        say(row(sums[-1]))
    timing.publish({"single_upload": singles, "sums": sums}, arguments.out)


if __name__ == "__main__":
    main()
