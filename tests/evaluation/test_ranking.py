"""`evaluate` against a dense float64 reference, written user by user to be read."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from fcf_jax.core.objective import explicit_ratings, implicit_feedback
from fcf_jax.core.records import Model
from fcf_jax.data import Interactions
from fcf_jax.evaluation import evaluate, evaluate_data, evaluation_data, per_user, user_metrics

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


def test_user_metrics_invariant_to_chunk_size():
    train, test = map(interactions, random_split())
    data = evaluation_data(train, test, chunk_scores=5 * NUM_ITEMS)  # 8 chunks, 4 places empty
    in_one_chunk = evaluation_data(train, test)
    found, wanted = (
        per_user(user_metrics(IMPLICIT, random_factors(), part), k=10) for part in (data, in_one_chunk)
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
        per_user(user_metrics(IMPLICIT, random_factors(), data), k=10) for data in (sample, everybody)
    )
    assert_same(of_sample, {name: values[places] for name, values in of_all.items()})


def test_training_items_are_never_hits_where_candidates_run_out():
    train = Interactions.from_arrays([0, 0, 0, 1], [0, 1, 2, 0], num_users=2, num_items=4)
    test = Interactions.from_arrays([0, 0, 1], [0, 3, 1], num_users=2, num_items=4)  # 0 is in both
    data = evaluation_data(train, test)
    metrics = user_metrics(IMPLICIT, jnp.eye(4), data, k=4)
    np.testing.assert_allclose(
        metrics.at_k.precision, [0.25, 0.25]
    )  # item 3 alone; item 1, first of the ties
    np.testing.assert_allclose(metrics.at_k.recall, [0.5, 1.0])
    np.testing.assert_allclose(metrics.auc, [0.5, 0.5])  # no candidates; ties


def test_user_without_training_history_is_ranked_by_item_id():
    train = Interactions.from_arrays([1], [0], num_users=2, num_items=30)
    test = Interactions.from_arrays([0, 0], [1, 29], num_users=2, num_items=30)
    factors = random_factors(num_items=30)
    metrics = user_metrics(IMPLICIT, factors, evaluation_data(train, test), k=2)
    np.testing.assert_allclose(metrics.at_k.map, [0.25])
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
