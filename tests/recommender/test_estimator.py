"""The class for users of `implicit`: what it returns is what dense float64 algebra says."""

import copy
import inspect
import pickle
import re
import warnings

import jax
import numpy as np
import optax
import pytest
import references
from references import ALPHA, NUM_FACTORS, REGULARIZATION
from scipy import sparse
from small_data import MODEL

import fcf_jax as fcf

OPTIONS = {"num_factors": NUM_FACTORS, "alpha": ALPHA, "regularization": REGULARIZATION}
LOWEST = np.finfo(np.float32).min


@pytest.fixture(scope="module")
def views(small):
    return sparse.csr_matrix(small.strengths)


@pytest.fixture(scope="module")
def rounds():
    """What the callback was told: (round, seconds, loss)."""
    return []


@pytest.fixture(scope="module")
def model(views, rounds):
    def note(*told):
        rounds.append(told)

    return fcf.FederatedCollaborativeFilter(**OPTIONS, num_rounds=8, seed=3).fit(views, callback=note)


@pytest.fixture(scope="module")
def dense_scores(model, small):
    item_factors = np.asarray(model.item_factors, np.float64)
    users = references.solve_users(item_factors, small.c, small.p, regularization=REGULARIZATION)
    return users @ item_factors.T


def dense_best(scores, liked, count):
    """The best unliked items of one user, as (ids, scores), the lower id first."""
    masked = np.where(liked, -np.inf, scores)
    best = np.argsort(-masked, kind="stable")[:count]
    return best, masked[best]


def test_fit_agrees_with_the_pure_functions(model, small, rounds):
    key, optimizer = jax.random.key(3), fcf.optimizers.guarded_gram()
    federation = fcf.federated_cf(MODEL, optimizer, num_items=17, num_factors=NUM_FACTORS)
    clients = fcf.pack_clients(small.interactions)
    state, info = fcf.run_rounds(federation, key, federation.init(key), clients, num_rounds=8)
    np.testing.assert_allclose(model.item_factors, state.item_factors, atol=1e-5)  # float32, fused otherwise
    np.testing.assert_allclose([loss for _, _, loss in rounds], info.loss, rtol=1e-5)


def test_callback_is_told_of_every_round_and_the_loss_falls(rounds):
    assert [index for index, _, _ in rounds] == list(range(8))
    assert all(seconds > 0 for _, seconds, _ in rounds)
    assert rounds[-1][2] < 0.7 * rounds[0][2]


def test_an_exception_of_the_callback_ends_the_fit_with_a_model_of_that_round(views, model):
    stopped = fcf.FederatedCollaborativeFilter(**OPTIONS, num_rounds=8, seed=3)
    seen = []

    def stop_at_three(index, seconds, loss):
        seen.append(stopped.recommend(0, views[0], N=1)[0])
        if index == 3:
            raise StopIteration

    with pytest.raises(StopIteration):
        stopped.fit(views, callback=stop_at_three)
    assert len(seen) == 4
    shorter = fcf.FederatedCollaborativeFilter(**OPTIONS, num_rounds=4, seed=3).fit(views)
    np.testing.assert_array_equal(stopped.item_factors, shorter.item_factors)
    assert not np.array_equal(stopped.item_factors, model.item_factors)


def test_factors_match_dense_reference(model, small):
    assert model.item_factors.shape == (17, NUM_FACTORS) and model.item_factors.dtype == np.float32
    item_factors = np.asarray(model.item_factors, np.float64)
    expected = references.solve_users(item_factors, small.c, small.p, regularization=REGULARIZATION)
    assert references.relative_error(model.user_factors, expected) < 1e-5  # float32
    assert not model.user_factors[3].any()  # no history


@pytest.mark.parametrize("is_filtered", [True, False])
def test_recommendations_match_dense_reference(model, views, small, dense_scores, is_filtered):
    ids, scores = model.recommend(np.arange(13), views, N=4, filter_already_liked_items=is_filtered)
    assert ids.shape == scores.shape == (13, 4)
    assert (ids.dtype, scores.dtype) == (np.int32, np.float32)
    for user in set(range(13)) - {5}:  # who has nearly everything
        liked = (small.p[user] > 0) & is_filtered
        expected_ids, expected_scores = dense_best(dense_scores[user], liked, 4)
        np.testing.assert_array_equal(ids[user], expected_ids)
        np.testing.assert_allclose(scores[user], expected_scores, atol=1e-5)
        alone = model.recommend(user, views[user], N=4, filter_already_liked_items=is_filtered)
        np.testing.assert_array_equal(alone[0], ids[user])
        np.testing.assert_allclose(alone[1], scores[user], atol=1e-6)


def test_places_that_nothing_can_fill_are_marked(model, views, small):
    (left,) = np.flatnonzero(small.p[5] == 0)
    ids, scores = model.recommend(5, views[5], N=3)
    np.testing.assert_array_equal(ids, [left, -1, -1])
    np.testing.assert_array_equal(scores[1:], [LOWEST, LOWEST])
    assert abs(scores[0]) < 2
    ids, scores = model.recommend([0, 5], views[[0, 5]], N=40, filter_already_liked_items=False)
    assert ids.shape == (2, 40) and (ids[:, 17:] == -1).all() and (scores[:, 17:] == LOWEST).all()
    assert [sorted(row) for row in ids[:, :17]] == [list(range(17))] * 2


def test_of_equal_scores_the_lower_id_comes_first(model, views):
    ids, scores = model.recommend(3, views[3], N=4)  # nothing is known of this user
    np.testing.assert_array_equal(ids, [0, 1, 2, 3])
    np.testing.assert_array_equal(scores, [0.0] * 4)


def test_items_and_filter_items(model, views, dense_scores):
    allowed = [2, 9, 4, 16]
    ids, scores = model.recommend(0, views[0], N=9, items=allowed, filter_already_liked_items=False)
    np.testing.assert_array_equal(ids, sorted(allowed, key=lambda item: -dense_scores[0, item]))
    assert scores.shape == (4,)
    best = model.recommend(0, None, N=3, filter_already_liked_items=False)[0]
    others = model.recommend(0, None, N=3, filter_already_liked_items=False, filter_items=best[:2])[0]
    assert others[0] == best[2] and not set(others) & set(best[:2])


@pytest.mark.parametrize("form", [sparse.csr_array, sparse.csc_matrix, sparse.coo_array])
def test_new_users_match_dense_reference_in_any_sparse_form(model, form):
    rng = np.random.default_rng(1)
    rows = np.where(rng.random((2, 17)) < 0.3, rng.integers(1, 4, (2, 17)), 0)
    ids, scores = model.recommend_new(form(rows), N=3)
    item_factors = np.asarray(model.item_factors, np.float64)
    c, p = references.dense_weights(rows, rows > 0, alpha=ALPHA)
    users = references.solve_users(item_factors, c, p, regularization=REGULARIZATION)
    for user in range(2):
        expected_ids, expected_scores = dense_best(item_factors @ users[user], rows[user] > 0, 3)
        np.testing.assert_array_equal(ids[user], expected_ids)
        np.testing.assert_allclose(scores[user], expected_scores, atol=1e-5)


def test_recalculating_takes_the_rows_that_are_given(model, views):
    as_user_one = model.recommend(0, views[1], recalculate_user=True)
    np.testing.assert_array_equal(as_user_one[0], model.recommend(1, views[1])[0])
    assert not np.array_equal(model.recommend(0, views[1])[0], as_user_one[0])
    array = sparse.csr_array(views)
    np.testing.assert_array_equal(model.recommend(1, array[1])[0], as_user_one[0])  # a row of one dimension


def test_similar_items_match_dense_cosines(model):
    ids, scores = model.similar_items([4, 7], N=3)
    factors = np.asarray(model.item_factors, np.float64)
    directions = factors / np.linalg.norm(factors, axis=1, keepdims=True)
    for row, item in enumerate([4, 7]):
        cosines = directions @ directions[item]
        np.testing.assert_array_equal(ids[row], np.argsort(-cosines)[:3])
        np.testing.assert_allclose(scores[row], np.sort(cosines)[::-1][:3], atol=1e-6)
    alone = model.similar_items(7, N=3, filter_items=[7])
    np.testing.assert_array_equal(alone[0][:2], ids[1, 1:])


@pytest.mark.parametrize("user", [0, 5])
def test_contributions_sum_to_the_score(model, views, small, user):
    total, top, weights = model.explain(user, views, 16, N=100)
    score = model.user_factors[user] @ model.item_factors[16]
    assert total == pytest.approx(score, abs=1e-5)
    assert sum(share for _, share in top) == pytest.approx(score, abs=1e-5)
    assert {item for item, _ in top} == set(np.flatnonzero(small.p[user]))
    shares = [share for _, share in top]
    assert shares == sorted(shares, reverse=True)
    assert model.explain(user, views[user], 16, weights, N=2)[1] == top[:2]


def test_contribution_is_what_the_score_loses_without_the_evidence(model, views, small):
    """b_u = sum c_j y_j: take item j out of it, A_u unchanged, and the score falls by its contribution."""
    _, ((own, share), *_), _ = model.explain(0, views, 16)
    item_factors = np.asarray(model.item_factors, np.float64)
    without = small.p[0].copy()
    without[own] = 0.0
    users = [
        references.solve_user(item_factors, small.c[0], p, regularization=REGULARIZATION)
        for p in (small.p[0], without)
    ]
    assert share == pytest.approx((users[0] - users[1]) @ item_factors[16], abs=1e-5)


def test_saved_and_loaded_it_recommends_the_same_and_knows_no_user(model, views, tmp_path):
    model.save(tmp_path / "model")
    with np.load(tmp_path / "model.npz", allow_pickle=False) as arrays:
        assert set(arrays) == {"format_version", "hyperparameters", "item_factors"}
    loaded = fcf.FederatedCollaborativeFilter.load(tmp_path / "model")
    assert repr(loaded) == repr(model)
    for actual, expected in zip(
        *(one.recommend([0, 1], views[[0, 1]]) for one in (loaded, model)), strict=True
    ):
        np.testing.assert_allclose(actual, expected, atol=1e-6)
    np.testing.assert_array_equal(loaded.similar_items(2)[0], model.similar_items(2)[0])
    assert loaded.explain(0, views, 16)[:2] == model.explain(0, views, 16)[:2]
    with pytest.raises(ValueError, match="got a loaded one; pass the users' own rows"):
        _ = loaded.user_factors
    with pytest.raises(ValueError, match="got a loaded one"):
        loaded.recommend(0, None, filter_already_liked_items=False)


def damage_nothing(content):
    return b""


def cut_off(content):
    return content[: len(content) // 2]


def flip_a_byte(content):
    middle = content.index(b"item_factors.npy") + 200  # in the numbers
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", [damage_nothing, cut_off, flip_a_byte, lambda content: b"no model"])
def test_a_damaged_file_is_named_in_one_line(model, tmp_path, damage):
    path = tmp_path / "model.npz"
    model.save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}: expected a saved model") as caught:
        fcf.FederatedCollaborativeFilter.load(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError):
        fcf.FederatedCollaborativeFilter.load(tmp_path / "missing")


def test_the_loss_falls_with_cohorts(views):
    cohorts = fcf.FederatedCollaborativeFilter(**OPTIONS, num_rounds=40, cohort_size=5)
    losses = []
    cohorts.fit(views, callback=lambda index, seconds, loss: losses.append(loss))
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_other_numbers_and_more_rounds_compile_nothing(views, model, num_compiled):
    before = num_compiled()
    for changed in ({"alpha": 1, "regularization": 2}, {"unobserved_weight": 0.5}):
        fcf.FederatedCollaborativeFilter(**(OPTIONS | changed), num_rounds=2).fit(views)
    assert num_compiled() == before


@pytest.fixture
def implicits(model, views):
    """A model of `implicit` with our factors; None of its warnings are about us."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        als = pytest.importorskip("implicit.cpu.als")
        theirs = als.AlternatingLeastSquares(factors=NUM_FACTORS, regularization=REGULARIZATION)
    theirs.item_factors, theirs.user_factors = model.item_factors.copy(), model.user_factors.copy()
    confidences = views.astype(np.float32)
    confidences.data = 1 + np.float32(ALPHA) * confidences.data
    return theirs, confidences


def test_arguments_and_results_are_those_of_implicit(model, views, implicits):
    theirs, confidences = implicits
    for method in ("fit", "recommend", "explain"):
        names = [list(inspect.signature(getattr(one, method)).parameters) for one in (model, theirs)]
        assert names[0] == names[1]
    calls = [
        lambda one, rows: one.recommend(0, rows[0], 4),
        lambda one, rows: one.recommend([1, 2], rows[[1, 2]], N=4, filter_items=[3]),
        lambda one, rows: one.recommend(1, rows[1], items=[1, 5, 9], filter_already_liked_items=False),
        lambda one, rows: one.recommend(0, rows[1], recalculate_user=True, N=3),
        lambda one, rows: one.similar_items([2, 3], N=4),
        lambda one, rows: one.similar_items(2, 4),
    ]
    for call in calls:
        (ids, scores), (expected_ids, expected_scores) = call(model, views), call(theirs, confidences)
        assert (ids.shape, scores.shape, scores.dtype) == (
            expected_ids.shape,
            expected_scores.shape,
            expected_scores.dtype,
        )
        np.testing.assert_array_equal(ids, expected_ids)
        np.testing.assert_allclose(scores, expected_scores, atol=1e-5)
    (total, top, _), (expected, expected_top, _) = (
        one.explain(0, rows, 16, N=3) for one, rows in ((model, views), (theirs, confidences))
    )
    assert total == pytest.approx(expected, abs=1e-5)
    np.testing.assert_allclose(top, expected_top, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_factors": 0}, "expected num_factors of at least 1, got 0; give a whole number"),
        ({"num_factors": True}, "expected num_factors of at least 1, got True"),
        ({"num_rounds": 2.5}, "expected num_rounds of at least 0, got 2.5"),
        ({"alpha": -1.0}, "expected alpha of at least 0 and finite, got -1.0"),
        ({"regularization": float("nan")}, "expected regularization (lambda) of at least 0 and finite"),
        ({"cohort_size": 0}, "expected cohort_size of at least 1, got 0; None lets all users take part"),
    ],
)
def test_hyperparameters_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        fcf.FederatedCollaborativeFilter(**options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, v: m.fit(v.toarray()), "expected a 2-D SciPy sparse matrix, got ndarray"),
        (lambda m, v: m.fit(0 * v), "expected user_items with an interaction, got none"),
        (lambda m, v: m.fit(-v), "expected strengths >= 0 for implicit feedback"),
        (lambda m, v: m.recommend(0, v), "one row for every user in userid (1), got 13; pass"),
        (lambda m, v: m.recommend([0, 1], v[0]), "one row for every user in userid (2), got 1"),
        (lambda m, v: m.recommend(0, v[0, :9]), "expected user_items with 17 columns"),
        (lambda m, v: m.recommend(99, v[0]), "expected userid in [0, 13), got 99"),
        (lambda m, v: m.recommend(-1, v[0]), "expected userid in [0, 13), got -1"),
        (lambda m, v: m.recommend("me", v[0]), "expected userid to be a whole number or a list of them"),
        (lambda m, v: m.recommend(0, v[0], N=0), "expected N >= 1"),
        (lambda m, v: m.recommend(0, v[0], items=[1], filter_items=[2]), "items or filter_items, got both"),
        (lambda m, v: m.recommend(0, v[0], items=[17]), "expected items in [0, 17), got 17"),
        (lambda m, v: m.similar_items(17), "expected itemid in [0, 17), got 17"),
        (lambda m, v: m.explain(0, v, -2), "expected itemid in [0, 17), got -2"),
        (lambda m, v: m.explain(13, v, 2), "expected userid in [0, 13), got 13"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_one_line_and_change_nothing(model, views, call, message):
    before = model.item_factors
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        call(model, views)
    assert "\n" not in str(caught.value)
    np.testing.assert_array_equal(model.item_factors, before)


def test_a_new_model_asks_to_be_fitted(views):
    with pytest.raises(ValueError, match="expected a fitted model, got a new one; call fit"):
        fcf.FederatedCollaborativeFilter().recommend(0, views[0])


def test_a_diverged_fit_leaves_no_model(views):
    model = fcf.FederatedCollaborativeFilter(**OPTIONS, num_rounds=30, server_step=optax.sgd(1e6))
    with pytest.raises(FloatingPointError, match="diverged; raise regularization"):
        model.fit(views)
    with pytest.raises(ValueError, match="expected a fitted model"):
        _ = model.item_factors


def test_no_progress_bar_where_nobody_looks(views, capfd):
    fcf.FederatedCollaborativeFilter(**OPTIONS, num_rounds=1).fit(views, show_progress=True)
    assert capfd.readouterr() == ("", "")


@pytest.fixture(scope="module")
def with_untouched(views):
    """A model of two items more, in the middle and at the end, that nobody touched."""
    columns = [*range(9), 17, *range(9, 17), 17]
    wide = sparse.hstack([views, sparse.csr_matrix((views.shape[0], 1))]).tocsr()[:, columns]
    return fcf.FederatedCollaborativeFilter(**OPTIONS, num_rounds=2).fit(wide)


def test_items_that_nobody_touched_are_no_neighbours(with_untouched):
    assert not with_untouched.item_factors[[9, 18]].any()
    ids, _ = with_untouched.similar_items(3, N=19)
    assert set(ids[:17].tolist()) == set(range(19)) - {9, 18} and (ids[17:] == -1).all()
    ids, scores = with_untouched.similar_items([9, 3], N=2)
    assert (ids[0] == -1).all() and (scores[0] == LOWEST).all() and ids[1, 0] == 3


def test_users_without_a_history_are_no_neighbours(model):
    ids, _ = model.similar_users([3, 5], N=13)  # user 3 has none
    assert (ids[0] == -1).all() and 3 not in ids[1].tolist() and ids[1, 0] == 5


def test_histories_of_some_users_are_replaced(model, views):
    fitted, rows = copy.copy(model), views[[5, 1]]
    fitted.partial_fit_users([1, 14], rows)
    np.testing.assert_allclose(fitted.user_factors[[1, 14]], model.user_factors[[5, 1]], atol=1e-6)
    np.testing.assert_allclose(fitted.user_factors[[0, 5]], model.user_factors[[0, 5]], atol=1e-6)
    assert fitted.user_factors.shape[0] == 15 and not fitted.user_factors[13].any()
    np.testing.assert_allclose(model.recalculate_user([1, 14], rows), fitted.user_factors[[1, 14]], atol=1e-6)
    assert model.recalculate_user(0, views[5]).shape == (NUM_FACTORS,)
    with pytest.raises(ValueError, match="each user once"):
        fitted.partial_fit_users([1, 1], rows)


def test_a_loaded_model_begins_to_know_users(model, views, tmp_path):
    model.save(tmp_path / "model")
    loaded = fcf.FederatedCollaborativeFilter.load(tmp_path / "model")
    loaded.partial_fit_users([0, 1], views[[5, 1]])
    np.testing.assert_array_equal(loaded.recommend(1, None)[0], model.recommend(1, None)[0])


def test_parameters_are_those_of_scikit_learn(model):
    params = model.get_params()
    assert params["num_rounds"] == 8 and params["server_step"] is None and "_item_factors" not in params
    other = fcf.FederatedCollaborativeFilter(**params).set_params(alpha=2, seed=4)
    assert (other.alpha, other.seed, model.seed) == (2, 4, 3)
    with pytest.raises(ValueError, match=r"expected parameters among num_factors, .*, got alfa"):
        other.set_params(alfa=2)
    with pytest.raises(ValueError, match="expected alpha"):
        other.set_params(seed=5, alpha=-1.0)
    assert other.seed == 4


def test_pickled_with_a_server_step_it_does_all_but_fit(model, views):
    own = copy.deepcopy(model).set_params(server_step=optax.sgd(0.1))
    assert copy.deepcopy(own).server_step is own.server_step
    found = pickle.loads(pickle.dumps(own))
    np.testing.assert_array_equal(found.recommend(0, views[0])[0], model.recommend(0, views[0])[0])
    with pytest.raises(ValueError, match=r"set it again: model.set_params\(server_step=...\)"):
        found.fit(views)
    assert pickle.loads(pickle.dumps(model)).server_step is None
    assert pickle.loads(pickle.dumps(found.set_params(server_step=None))).server_step is None
