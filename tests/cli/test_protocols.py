"""Published protocols as a user runs them: data and configuration in, figures of `summary.json` out."""

import json

import numpy as np
import pytest

from fcf_jax import cli
from fcf_jax.data import simulate_taste, split_per_user

pytestmark = pytest.mark.usefixtures("undrawn")
SHORT = [
    "model.num_factors=4", "model.regularization=2.0", "model.alpha=3.0", "federation.num_rounds=2",
]  # fmt: skip


def run(folder, config, *overrides):
    """Run a shipped config on toy data; return its summary and the item factors by label."""
    settings = [part for one in (*SHORT, *overrides) for part in ("--set", one)]
    assert cli.main(["run", config, *settings, "--quiet", "--out", str(folder)]) == 0
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


def histories_of(interactions):
    """Return the items of each user, who are numbered from 10, items from 100."""
    items = interactions.item_ids + 100
    parts = np.split(items, interactions.indptr[1:-1])
    return {10 + user: part.tolist() for user, part in enumerate(parts) if len(part)}


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
    masked = ["evaluation.masked=train_and_validation"] if is_masked else []
    summary, factors = run(tmp_path / "run", "published-split", *settings, *masked, "evaluation.k=[5, 3]")
    for k in (3, 5):
        expected = lightgcn(published, factors, published[1] if is_masked else {}, k=k)
        found = [summary["federated"][name] for name in (f"recall_at_{k}", f"ndcg_at_{k}")]
        np.testing.assert_allclose(found, expected, rtol=1e-5)  # float32 scores
    assert set(summary["federated"]) == set(summary["centralized"]) == set(summary["popularity"])
    assert summary["num_test_interactions"] == sum(map(len, published[2].values()))


def test_parts_that_do_not_fit_are_refused_in_one_line(tmp_path, capsys):
    cases = {
        "data.train_path: expected the training and the test file": [],
        "gone.txt: no such file": [
            f"data.train_path={tmp_path}/gone.txt",
            f"data.test_path={tmp_path}/b.txt",
        ],
        "evaluation.k: expected greater than or equal to 1, got 0": ["evaluation.k=[20, 0]"],
        "evaluation.k: ": ["evaluation.k=[]"],
    }
    for expected, overrides in cases.items():
        settings = [part for one in overrides for part in ("--set", one)]
        assert cli.main(["run", "published-split", *settings, "--out", str(tmp_path / "run")]) == 2
        error = capsys.readouterr().err
        assert expected in error and error.count("\n") == 1
