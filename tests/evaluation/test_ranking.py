"""`evaluate` against a dense float64 reference, written user by user to be read."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from fcf_jax.core.objective import explicit_ratings, implicit_feedback
from fcf_jax.core.objectives.bpr import bpr
from fcf_jax.core.records import Model
from fcf_jax.data import Interactions, with_pairs
from fcf_jax.evaluation import (
    evaluate,
    evaluate_data,
    evaluation_data,
    per_user,
    solve_new_users,
    user_metrics,
    user_metrics_of_factors,
    user_metrics_of_scores,
)
from fcf_jax.evaluation.metrics import metric_names

NUM_USERS, NUM_ITEMS, NUM_FACTORS = 37, 23, 3
REGULARIZATION = 0.7
IMPLICIT = Model(implicit_feedback(alpha=3.0), REGULARIZATION)
EXPLICIT = Model(explicit_ratings(mean=2.5), REGULARIZATION, unobserved_weight=0.0)


def random_split(*, seed=0, num_items=NUM_ITEMS, density=0.4):
    """Each pair is in train, in test or nowhere; user 0 trained on nothing, 1 has no test item, 2 has all."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(3, (NUM_USERS, num_items), p=[1 - density, density / 2, density / 2])
    kind[0][kind[0] == 1] = 0
    kind[0, 4] = 2
    kind[1][kind[1] == 2] = 0
    kind[2] = rng.choice([1, 2], num_items)
    strengths = rng.integers(1, 6, kind.shape)
    return (np.where(kind == part, strengths, 0) for part in (1, 2))


def interactions(dense):
    users, items = np.nonzero(dense)
    shape = {"num_users": dense.shape[0], "num_items": dense.shape[1]}
    return Interactions.from_arrays(users, items, dense[users, items], **shape)


def random_factors(*, num_items=NUM_ITEMS, ties=False):
    factors = jax.random.normal(jax.random.key(3), (num_items, NUM_FACTORS))
    # every other item is its neighbour's twin: exact ties, as equal rows give equal scores
    return factors[jnp.arange(num_items) // 2 * 2] if ties else factors


def reference_user(item_factors, observed, wanted, *, k, alpha=None, mean=0.0, unobserved_weight=1.0):
    """All metrics of one user from its dense rows `observed` (train) and `wanted` (test)."""
    seen = observed > 0
    confidence = np.where(seen, 1.0 + (alpha or 0.0) * observed, unobserved_weight)
    preference = np.where(seen, 1.0 if alpha is not None else observed - mean, 0.0)
    matrix = item_factors.T @ (confidence[:, None] * item_factors) + REGULARIZATION * np.eye(NUM_FACTORS)
    user_factor = np.linalg.solve(matrix, item_factors.T @ (confidence * preference))
    scores = np.round(item_factors @ user_factor, 9)  # twins tie again, whatever the order of summation

    tests, others = np.flatnonzero(wanted), np.flatnonzero(~seen & (wanted == 0))
    ranked = [item for item in np.argsort(-scores, kind="stable") if not seen[item]][:k]
    hits = np.array([item in tests for item in ranked] + [False] * (k - len(ranked)))
    n, m = len(tests), min(len(tests), k)
    discounts = 1 / np.log2(np.arange(k) + 2)
    precisions = [hits[: rank + 1].mean() for rank in range(k)]
    precision, recall = hits.sum() / k, hits.sum() / n
    won = scores[tests][:, None] - scores[others][None, :]
    target = np.ones(n) if alpha is not None else wanted[tests] - mean
    values = {
        "precision": (precision, m / k),
        "recall": (recall, m / n),
        "f1": (
            0.0 if not hits.any() else 2 / (1 / precision + 1 / recall),
            2 * (m / k) * (m / n) / (m / k + m / n),
        ),
        "map": (np.sum(np.array(precisions) * hits) / m, 1.0),
        "ndcg": (np.sum(discounts * hits) / np.sum(discounts[:m]), 1.0),
        "hit_rate": (float(hits.any()), 1.0),
        "auc": (np.mean((won > 0) + 0.5 * (won == 0)) if others.size else 0.5, 1.0),
    }
    return values, (target - scores[tests]) ** 2, target**2


def reference(item_factors, train, test, *, k, **weighting):
    dense = np.asarray(item_factors, np.float64)
    users = [u for u in range(len(test)) if test[u].any()]
    results = [reference_user(dense, train[u], test[u], k=k, **weighting) for u in users]
    means = {}
    for name in results[0][0]:
        label = name if name == "auc" else f"{name}_at_{k}"
        means[label] = np.mean([values[name][0] for values, _, _ in results])
        means[f"normalized_{label}"] = np.mean(
            [values[name][0] / values[name][1] for values, _, _ in results]
        )
    errors, preferences = (np.concatenate([result[part] for result in results]) for part in (1, 2))
    means["rmse"] = np.sqrt(errors.mean())
    means["normalized_rmse"] = means["rmse"] / np.sqrt(preferences.mean())
    return means


def assert_same(found, expected, rtol=2e-5):  # float32 fold-in and scores
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=rtol, err_msg=name)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("k", [10, NUM_ITEMS + 7])
def test_evaluate_matches_dense_reference(k, ties):
    train, test = random_split()
    factors = random_factors(ties=ties)
    found = evaluate(IMPLICIT, factors, interactions(train), interactions(test), k)
    assert_same(found, reference(factors, train, test, k=k, alpha=3.0))


def test_evaluate_of_ratings_matches_dense_reference():
    train, test = random_split(seed=1)
    found = evaluate(EXPLICIT, random_factors(), interactions(train), interactions(test), k=5)
    assert_same(found, reference(random_factors(), train, test, k=5, mean=2.5, unobserved_weight=0.0))


def test_several_lengths_in_one_pass_agree_with_one_by_one():
    train, test = map(interactions, random_split())
    together = evaluate(IMPLICIT, random_factors(), train, test, k=[10, NUM_ITEMS + 7])
    assert set(together) == set(metric_names((10, NUM_ITEMS + 7)))
    for k in (10, NUM_ITEMS + 7):
        alone = evaluate(IMPLICIT, random_factors(), train, test, k=k)
        assert {name: together[name] for name in alone} == alone


def lightgcn_reference(item_factors, train, test, masked, *, k):
    """Recall and NDCG of LightGCN's evaluator, by its definitions; and recall divided by min(k, n)."""
    found = []
    for observed, wanted, hidden in zip(train, test, masked, strict=True):
        if not wanted.any():
            continue
        confidence = np.where(observed > 0, 1 + 3.0 * observed, 1.0)
        matrix = (item_factors.T * confidence) @ item_factors + REGULARIZATION * np.eye(NUM_FACTORS)
        user = np.linalg.solve(matrix, item_factors.T @ (confidence * (observed > 0)))
        scores = np.where((observed > 0) | hidden, -np.inf, item_factors @ user)
        ranked = np.argsort(-scores, kind="stable")[:k]
        hits, n = wanted[ranked] > 0, np.count_nonzero(wanted)
        gains = 1 / np.log2(np.arange(2, k + 2))
        found.append((hits.sum() / n, hits @ gains / gains[: min(k, n)].sum(), hits.sum() / min(k, n)))
    return np.mean(found, axis=0)


@pytest.mark.parametrize("is_masked", [False, True])
def test_recall_and_ndcg_match_lightgcn_reference(is_masked):
    train, test = random_split(seed=6)
    train[0, 0], test[0, 0] = 1, 0  # user 0 too has a history: no ties
    masked = np.random.default_rng(2).random(train.shape) < 0.3
    masked &= (train == 0) & (test == 0) & is_masked
    factors = random_factors()
    data = evaluation_data(
        interactions(train), interactions(test), masked=interactions(masked) if is_masked else None
    )
    found = evaluate_data(IMPLICIT, factors, data, k=[2, 7])
    for k in (2, 7):
        expected = lightgcn_reference(np.asarray(factors, np.float64), train, test, masked, k=k)
        names = (f"recall_at_{k}", f"ndcg_at_{k}", f"normalized_recall_at_{k}")
        np.testing.assert_allclose([found[name] for name in names], expected, rtol=1e-6)


def sampled_reference(scores, test_item, negatives, *, k):
    """Hit rate and NDCG of a test item among negatives, over all places that a tie leaves open."""
    above, tied = (
        np.sum(scores[negatives] > scores[test_item]),
        np.sum(scores[negatives] == scores[test_item]),
    )
    ranks = np.arange(above, above + tied + 1)
    return np.mean(ranks < k), np.mean(np.where(ranks < k, 1 / np.log2(ranks + 2), 0))


@pytest.mark.parametrize("ties", [False, True])
def test_sampled_metrics_match_reference(ties):
    rng = np.random.default_rng(3)
    test_items = rng.permutation(NUM_ITEMS)[:9]
    negatives = np.stack([rng.permutation(np.delete(np.arange(NUM_ITEMS), item))[:8] for item in test_items])
    negatives[2, 5:] = negatives[4, 1:] = -1  # fewer negatives
    shape = {"num_users": 9, "num_items": NUM_ITEMS}
    test = Interactions.from_arrays(np.arange(9), test_items, **shape)
    data = evaluation_data(Interactions.from_arrays([], [], **shape), test, negatives=negatives)
    scores = rng.integers(0, 4, NUM_ITEMS) if ties else rng.normal(size=NUM_ITEMS)
    scores = scores.astype(np.float32)
    metrics = user_metrics_of_scores(IMPLICIT, jnp.asarray(scores), data, k=[1, 3])
    for k in (1, 3):
        expected = [
            sampled_reference(scores, item, of_user[of_user >= 0], k=k)
            for item, of_user in zip(test_items, negatives, strict=True)
        ]
        np.testing.assert_allclose(np.stack(metrics.sampled[k], axis=1), expected, rtol=1e-6)
    assert set(per_user(metrics)) == set(metric_names((1, 3), has_negatives=True))


def test_a_constant_scorer_gains_nothing_from_ties():
    shape = {"num_users": 2, "num_items": 200}
    test = Interactions.from_arrays([0, 1], [0, 150], **shape)
    negatives = np.stack([np.arange(1, 100), np.arange(1, 100)])
    data = evaluation_data(Interactions.from_arrays([], [], **shape), test, negatives=negatives)
    found = evaluate_data(IMPLICIT, jnp.zeros((200, NUM_FACTORS)), data, k=10)
    assert found["sampled_hit_rate_at_10"] == pytest.approx(10 / 100)
    assert found["sampled_ndcg_at_10"] == pytest.approx(np.sum(1 / np.log2(np.arange(10) + 2)) / 100)
    undefined = evaluate_data(IMPLICIT, jnp.full((200, NUM_FACTORS), jnp.nan), data, k=10)
    assert np.isnan([undefined["sampled_hit_rate_at_10"], undefined["sampled_ndcg_at_10"]]).all()


def test_user_metrics_invariant_to_chunk_size():
    train, test = map(interactions, random_split())
    data = evaluation_data(train, test, chunk_scores=5 * NUM_ITEMS)  # 8 chunks, 4 places empty
    in_one_chunk = evaluation_data(train, test)
    found, wanted = (
        per_user(user_metrics(IMPLICIT, random_factors(), part)) for part in (data, in_one_chunk)
    )
    assert_same(found, wanted)


def test_evaluate_invariant_to_item_and_user_permutation():
    train, test = random_split()
    train[0, 0], test[0, 0] = 1, 0  # user 0 too has a history: no ties
    rng = np.random.default_rng(5)
    users, items = rng.permutation(NUM_USERS), rng.permutation(NUM_ITEMS)
    permuted = (interactions(dense[users][:, items]) for dense in (train, test))
    found = evaluate(IMPLICIT, random_factors()[items], *permuted)
    plain = (interactions(dense) for dense in (train, test))
    assert_same(found, evaluate(IMPLICIT, random_factors(), *plain))


def test_sampled_users_get_the_metrics_that_they_get_among_all():
    train, test = map(interactions, random_split())
    everybody, sample, again = (
        evaluation_data(train, test, max_users=count, seed=4) for count in (None, 9, 9)
    )
    np.testing.assert_array_equal(sample.user_ids, again.user_ids)
    assert sample.user_ids.shape == (9,)
    assert np.all(np.diff(sample.user_ids) > 0)
    places = np.searchsorted(everybody.user_ids, sample.user_ids)
    of_sample, of_all = (
        per_user(user_metrics(IMPLICIT, random_factors(), data)) for data in (sample, everybody)
    )
    assert_same(of_sample, {name: values[places] for name, values in of_all.items()})


def test_training_items_are_never_hits_where_candidates_run_out():
    train = Interactions.from_arrays([0, 0, 0, 1], [0, 1, 2, 0], num_users=2, num_items=4)
    test = Interactions.from_arrays([0, 0, 1], [0, 3, 1], num_users=2, num_items=4)  # 0 is in both
    data = evaluation_data(train, test)
    metrics = user_metrics(IMPLICIT, jnp.eye(4), data, k=4)
    np.testing.assert_allclose(
        metrics.at_k[4].precision, [0.25, 0.25]
    )  # item 3 alone; item 1, first of the ties
    np.testing.assert_allclose(metrics.at_k[4].recall, [0.5, 1.0])
    np.testing.assert_allclose(metrics.auc, [0.5, 0.5])  # no candidates; ties


def test_user_without_training_history_is_ranked_by_item_id():
    train = Interactions.from_arrays([1], [0], num_users=2, num_items=30)
    test = Interactions.from_arrays([0, 0], [1, 29], num_users=2, num_items=30)
    factors = random_factors(num_items=30)
    metrics = user_metrics(IMPLICIT, factors, evaluation_data(train, test), k=2)
    np.testing.assert_allclose(metrics.at_k[2].map, [0.25])
    np.testing.assert_allclose(metrics.auc, [0.5])
    np.testing.assert_allclose(metrics.squared_error_sum, [2.0])


def test_another_model_and_other_item_factors_compile_nothing(num_compiled):
    train, test = map(interactions, random_split(seed=8, num_items=NUM_ITEMS - 2))
    factors = random_factors(num_items=NUM_ITEMS - 2)
    data = evaluation_data(train, test)
    expected, others = evaluate_data(IMPLICIT, factors, data), 2 * factors
    before = num_compiled()
    for changed in (
        Model(implicit_feedback(alpha=1.0), REGULARIZATION),
        IMPLICIT._replace(regularization=20.0),
        IMPLICIT._replace(unobserved_weight=0.1),
    ):
        assert evaluate_data(changed, factors, data) != expected  # it was not ignored
    evaluate_data(IMPLICIT, others, data)
    assert evaluate(IMPLICIT, factors, train, test) == expected
    assert num_compiled() == before


def test_evaluation_refuses_what_it_cannot_evaluate():
    train, test = map(interactions, random_split())
    wider = Interactions.from_arrays([0], [0], num_users=NUM_USERS, num_items=NUM_ITEMS + 1)
    nothing = Interactions.from_arrays([], [], num_users=NUM_USERS, num_items=NUM_ITEMS)
    with pytest.raises(ValueError, match="same"):
        evaluation_data(train, wider)
    with pytest.raises(ValueError, match="test item"):
        evaluation_data(train, nothing)
    with pytest.raises(ValueError, match="max_users"):
        evaluation_data(train, test, max_users=0)
    with pytest.raises(ValueError, match="item factors"):
        evaluate(IMPLICIT, random_factors(num_items=9), train, test)
    with pytest.raises(ValueError, match="k of at least 1"):
        evaluate(IMPLICIT, random_factors(), train, test, k=0)
    with pytest.raises(ValueError, match="k of at least 1"):
        evaluate(IMPLICIT, random_factors(), train, test, k=[10, 0])


def test_metrics_of_solved_factors_agree_with_folding_in():
    train, test = map(interactions, random_split())
    item_factors, data = random_factors(), evaluation_data(train, test, chunk_scores=8 * NUM_ITEMS)
    user_factors = jnp.asarray(solve_new_users(IMPLICIT, item_factors, train))
    folded = user_metrics(IMPLICIT, item_factors, data, k=[3, 10])
    given = user_metrics_of_factors(IMPLICIT, user_factors, item_factors, data, k=[3, 10])
    for one, other in zip(jax.tree.leaves(folded), jax.tree.leaves(given), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)


def test_observed_items_of_pairs_are_never_recommended_whatever_their_strength():
    train, test = (Interactions.from_arrays([0], [item], [0.0], num_items=3) for item in (0, 1))
    model = Model(implicit_feedback(alpha=0.0), 1.0, 0.0, objective=bpr())
    item_factors = jnp.asarray([[3.0], [2.0], [-1.0]])
    assert evaluate(model, item_factors, with_pairs(train, num_negatives=9), test, k=1)["hit_rate_at_1"] == 1
