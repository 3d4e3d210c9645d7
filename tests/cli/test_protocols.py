"""Published protocols as a user runs them: data and configuration in, figures of `summary.json` out."""

import json

import numpy as np
import pytest

from fcf_jax import cli
from fcf_jax.data import simulate_taste, split_per_user
from fcf_jax.experiments.build.dataset import load_dataset
from fcf_jax.experiments.config.load import load_config

pytestmark = pytest.mark.usefixtures("undrawn")
SHORT = [
    "model.num_factors=4", "model.regularization=2.0", "model.alpha=3.0", "federation.num_rounds=2",
    "model.unobserved_weight=1.0", "model.regularization_exponent=0.0", "evaluation.baseline=false",
]  # fmt: skip


def run(folder, config, *overrides):
    """Run a shipped config on toy data; return its summary and the item factors by label."""
    settings = [part for one in (*SHORT, *overrides) for part in ("--set", one)]
    assert cli.main(["run", config, *settings, "--out", str(folder)]) == 0
    with np.load(folder / "item_factors.npz") as arrays:
        factors = dict(zip(arrays["item_ids"].tolist(), arrays["item_factors"].astype(float), strict=True))
    return json.loads((folder / "summary.json").read_text()), factors


def fold_in(factors, history):
    """Solve a user's factor and score all items, in float64: x.y by label; alpha = 3, lambda = 2."""
    rows = np.stack(list(factors.values()))
    confidence = np.array([1.0 + 3.0 * (item in history) for item in factors])
    matrix = (rows.T * confidence) @ rows + 2.0 * np.eye(rows.shape[1])
    user = np.linalg.solve(matrix, rows.T @ (confidence * (confidence > 1)))
    return dict(zip(factors, rows @ user, strict=True))


def ranked(scores, masked):
    return [item for item in sorted(scores, key=lambda one: (-scores[one], one)) if item not in masked]


def ids_of(interactions):
    """Return the items of each user that has some."""
    parts = np.split(interactions.item_ids, interactions.indptr[1:-1])
    return {user: part.tolist() for user, part in enumerate(parts) if len(part)}


def histories_of(interactions):
    """Return the items of each user, with users numbered from 10 and items from 100."""
    return {10 + user: [100 + item for item in items] for user, items in ids_of(interactions).items()}


def write_lists(path, histories):
    path.write_text("".join(f"{user} {' '.join(map(str, items))}\n" for user, items in histories.items()))
    return path


def write_pairs(path, histories):
    path.write_text("".join(f"{user}\t{item}\n" for user, items in histories.items() for item in items))
    return path


@pytest.fixture(scope="module")
def published():
    data = simulate_taste(num_users=60, num_items=30, mean_history=8, seed=0).binarized()
    split = split_per_user(data, test_fraction=0.3, validation_fraction=0.1, seed=0)
    return [histories_of(part) for part in (split.train, split.validation, split.test)]


def lightgcn(histories, factors, masked, *, k):
    """Recall@k and NDCG@k of LightGCN's evaluator."""
    train, _, test = histories
    gains = 1 / np.log2(np.arange(2, k + 2))
    found = []
    for user, wanted in test.items():
        history = train.get(user, [])
        best = ranked(fold_in(factors, history), {*history, *masked.get(user, [])})[:k]
        hits = np.array([item in wanted for item in best])
        found.append(
            (hits.sum() / len(wanted), hits @ gains[: len(hits)] / gains[: min(k, len(wanted))].sum())
        )
    return np.mean(found, axis=0)


@pytest.mark.parametrize("write", [write_lists, write_pairs])
def test_published_split_gives_the_metrics_of_lightgcn(published, tmp_path, write):
    names = ("train", "validation", "test")
    paths = [write(tmp_path / f"{name}.txt", part) for name, part in zip(names, published, strict=True)]
    settings = [f"data.{name}_path={path}" for name, path in zip(names, paths, strict=True)]
    is_masked = write is write_pairs
    settings += ["evaluation.masked=train_and_validation"] if is_masked else ["evaluation.baseline=true"]
    summary, factors = run(tmp_path / "run", "published-split", *settings, "evaluation.k=[5, 3]")
    for k in (3, 5):
        expected = lightgcn(published, factors, published[1] if is_masked else {}, k=k)
        found = [summary["federated"][name] for name in (f"recall_at_{k}", f"ndcg_at_{k}")]
        np.testing.assert_allclose(found, expected, rtol=1e-5)  # float32 scores
    assert set(summary["federated"]) == set(summary["popularity"])
    assert is_masked or set(summary["federated"]) == set(summary["centralized"])
    assert summary["num_test_interactions"] == sum(map(len, published[2].values()))


@pytest.fixture(scope="module")
def movielens(tmp_path_factory):
    """Ratings in the form of MovieLens 1M: user, item, rating, time; items in no order."""
    data = simulate_taste(num_users=60, num_items=30, mean_history=8, seed=0)
    rng = np.random.default_rng(1)
    rows = [
        (user, item, int(rng.integers(1, 6)), 1000 + time)
        for user, items in histories_of(data).items()
        for time, item in enumerate(rng.permutation(items).tolist())
    ]
    folder = tmp_path_factory.mktemp("ml-1m")
    (folder / "ratings.dat").write_text("".join("::".join(map(str, row)) + "\n" for row in rows))
    return folder, rows


def test_given_negatives_rank_the_test_item_as_in_ncf(movielens, tmp_path, capsys):
    folder, rows = movielens
    users, items = (list(dict.fromkeys(row[column] for row in rows)) for column in (0, 1))
    held_out = {user: item for user, item, _, _ in rows}  # the latest of each user
    rng = np.random.default_rng(4)
    candidates = {
        user: rng.permutation([one for one in items if one != held_out[user]])[:12] for user in users
    }
    path = tmp_path / "test.negative"
    path.write_text(
        "".join(
            f"({users.index(user)},{items.index(item)})\t"
            + "\t".join(str(items.index(one)) for one in candidates[user])
            + "\n"
            for user, item in held_out.items()
        )
    )
    given = [f"data.path={folder}", f"data.negatives_path={path}", "evaluation.baseline=true"]
    given += ["evaluation.k=[1, 4]"]
    summary, factors = run(tmp_path / "run", "movielens-1m-ncf", *given)
    printed = capsys.readouterr().out
    assert "60 test items, ranked in the catalogue and among 12 negatives: test.negative" in printed
    assert "sampled_hit_rate_at_4" in printed and "…" not in printed
    ranks = []
    for user, wanted in held_out.items():
        scores = fold_in(factors, [item for one, item, _, _ in rows if one == user and item != wanted])
        above = sum(scores[one] > scores[wanted] for one in candidates[user])
        tied = sum(scores[one] == scores[wanted] for one in candidates[user])  # all, without a history
        ranks.append((above, above + tied + 1))
    for k in (1, 4):
        gains = np.where(np.arange(13) < k, 1 / np.log2(np.arange(13) + 2), 0.0)
        expected = [np.mean([values[slice(*one)].mean() for one in ranks]) for values in (gains > 0, gains)]
        for side in ("federated", "centralized", "popularity", "difference_percent"):
            assert f"sampled_hit_rate_at_{k}" in summary[side] and f"ndcg_at_{k}" in summary[side]
        found = [summary["federated"][f"sampled_{name}_at_{k}"] for name in ("hit_rate", "ndcg")]
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_held_out_users_are_folded_in_as_in_strong_generalization(movielens, tmp_path):
    folder, rows = movielens
    overrides = [
        f"data.path={folder}", "data.min_strength=2", "data.min_user_interactions=2",
        "data.test_fraction=0.4", "data.test_users=12", "data.validation_users=6", "evaluation.k=[2, 5]",
    ]  # fmt: skip
    summary, factors = run(tmp_path / "run", "movielens-1m-strong", *overrides)
    split = load_dataset(load_config(str(tmp_path / "run" / "config.toml"))).split
    fold_in_items, wanted_items = (
        {user: [split.train.item_labels[item] for item in items] for user, items in ids_of(part).items()}
        for part in (split.fold_in, split.test)
    )
    found = []
    for user, wanted in wanted_items.items():
        history = fold_in_items[user]
        best = ranked(fold_in(factors, history), set(history))
        for k in (2, 5):
            hits, m = np.array([item in wanted for item in best[:k]]), min(k, len(wanted))
            gains = 1 / np.log2(np.arange(2, k + 2))
            found.append((hits.sum() / m, hits @ gains[: len(hits)] / gains[:m].sum()))
    expected = np.array(found).reshape(-1, 2, 2).mean(axis=0)  # by k, then metric
    names = [[f"{name}_at_{k}" for name in ("normalized_recall", "ndcg")] for k in (2, 5)]
    np.testing.assert_allclose(
        [[summary["federated"][name] for name in row] for row in names], expected, rtol=1e-5
    )
    counts = np.unique([user for user, _, rating, _ in rows if rating >= 2], return_counts=True)[1]
    assert summary["num_users"] == np.sum(counts >= 2) - 12 - 6


def test_parts_that_do_not_fit_are_refused_in_one_line(tmp_path, capsys):
    (tmp_path / "train.txt").write_text("1 2\n1 3\n2 3\n")
    (tmp_path / "empty.txt").write_text("\n")
    cases = {
        "data.train_path: expected the training and the test file": [],
        "gone.txt: no such file": [
            f"data.train_path={tmp_path}/gone.txt",
            f"data.test_path={tmp_path}/b.txt",
        ],
        "empty.txt: expected interactions, found an empty file": [
            f"data.train_path={tmp_path}/train.txt",
            f"data.test_path={tmp_path}/empty.txt",
        ],
        "evaluation.k: expected greater than or equal to 1, got 0": ["evaluation.k=[20, 0]"],
        "evaluation.k: ": ["evaluation.k=[]"],
    }
    for expected, overrides in cases.items():
        settings = [part for one in overrides for part in ("--set", one)]
        assert cli.main(["run", "published-split", *settings, "--out", str(tmp_path / "run")]) == 2
        error = capsys.readouterr().err
        assert expected in error and error.count("\n") == 1
