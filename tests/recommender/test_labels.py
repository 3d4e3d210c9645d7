"""Data with labels: a DataFrame gives the model of the same matrix, and ids may be original ones."""

import re

import numpy as np
import pandas as pd
import pytest
from references import ALPHA, NUM_FACTORS, REGULARIZATION
from scipy import sparse

import fcf_jax as fcf

OPTIONS = {"num_factors": NUM_FACTORS, "alpha": ALPHA, "regularization": REGULARIZATION, "num_rounds": 8}


def frame_of(interactions, users="u{:02}", items="i{:02}"):
    rows = zip(interactions.user_ids, interactions.item_ids, interactions.strengths, strict=True)
    return pd.DataFrame(
        [(users.format(user), items.format(item), strength) for user, item, strength in rows],
        columns=["user", "item", "count"],
    )


@pytest.fixture(scope="module")
def frame(small):
    return frame_of(small.interactions)


@pytest.fixture(scope="module")
def seen(small):
    """Positions of users with a history: a DataFrame knows no others."""
    return np.flatnonzero(small.interactions.history_lengths)


@pytest.fixture(scope="module")
def model(frame):
    return fcf.FederatedCollaborativeFilter(**OPTIONS).fit(frame)


def test_frame_interactions_and_matrix_give_one_model(model, frame, small, seen):
    interactions = fcf.Interactions.from_frame(frame)
    by_interactions = fcf.FederatedCollaborativeFilter(**OPTIONS).fit(interactions)
    by_matrix = fcf.FederatedCollaborativeFilter(**OPTIONS).fit(interactions.to_scipy())
    for other in (by_interactions, by_matrix):
        np.testing.assert_array_equal(model.item_factors, other.item_factors)
    assert model.user_labels.tolist() == [f"u{user:02}" for user in seen]
    assert model.item_labels.tolist() == interactions.item_labels.tolist()
    assert by_matrix.item_labels.tolist() == list(range(interactions.num_items))


def test_original_ids_and_positions_name_the_same(model, frame):
    rows = fcf.Interactions.from_frame(frame).to_scipy()
    item, user = model.item_labels[4], model.user_labels[1]
    pairs = [
        (model.recommend(1, rows[[1]], N=3), model.recommend(user, None, N=3)),
        (model.recommend([2, 1], rows[[2, 1]]), model.recommend([model.user_labels[2], user], None)),
        (model.recommend([2, 1], rows[[2, 1]]), model.recommend([2, 1], frame)),
        (model.recommend(1, rows[[1]]), model.recommend(user, frame)),
        (model.similar_items(4), model.similar_items(item)),
        (model.similar_items(4, items=[1, 2]), model.similar_items(4, items=model.item_labels[[1, 2]])),
        (model.similar_users(1), model.similar_users(user)),
        (model.recommend_new(rows), model.recommend_new(frame)),
        (model.recommend_new(rows), model.recommend_new(frame.sample(frac=1, random_state=0))),
        (model.explain(1, rows[[1]], 4)[:2], model.explain(user, None, item)[:2]),
        (model.explain(1, rows[[1]], 4)[:2], model.explain(user, frame, item)[:2]),
    ]
    for by_position, by_label in pairs:
        np.testing.assert_array_equal(by_position[0], by_label[0])
        np.testing.assert_array_equal(by_position[1], by_label[1])


def test_similar_users_match_dense_cosines(model):
    ids, scores = model.similar_users([2, 5], N=4)
    factors = np.asarray(model.user_factors, np.float64)
    directions = factors / np.linalg.norm(factors, axis=1, keepdims=True)
    for row, user in enumerate([2, 5]):
        cosines = directions @ directions[user]
        np.testing.assert_array_equal(ids[row], np.argsort(-cosines)[:4])
        np.testing.assert_allclose(scores[row], np.sort(cosines)[::-1][:4], atol=1e-6)
    assert ids[:, 0].tolist() == [2, 5]
    assert not {2, 5} & set(model.similar_users(2, N=4, filter_users=[2, 5])[0])


def test_histories_of_others_are_matched_by_label(model, frame):
    """In whatever order their items come, and with what the model does not know left out."""
    mine = frame[frame["user"] == "u00"]
    expected = model.recommend("u00", None, N=5)
    np.testing.assert_array_equal(model.recommend_new(mine, N=5)[0][0], expected[0])
    unknown = pd.DataFrame({"user": ["u00"], "item": ["novelty"], "count": [3.0]})
    with pytest.warns(UserWarning, match="^1 of [0-9]+ interactions are with items that the model does not"):
        ids, _ = model.recommend_new(pd.concat([unknown, mine]), N=5)
    np.testing.assert_array_equal(ids[0], expected[0])
    with pytest.raises(ValueError, match=r"items of the model, such as \['i0.*got only others: \['novelty'"):
        model.recommend_new(unknown)


def test_saved_labels_come_back(model, frame, tmp_path):
    model.save(tmp_path / "model.npz")
    loaded = fcf.FederatedCollaborativeFilter.load(tmp_path / "model.npz")
    assert loaded.item_labels.tolist() == model.item_labels.tolist()
    np.testing.assert_array_equal(loaded.recommend_new(frame)[0], model.recommend_new(frame)[0])
    np.testing.assert_array_equal(loaded.recommend("u01", frame)[0], model.recommend("u01", None)[0])
    with pytest.raises(ValueError, match="got a loaded one; pass the users' own rows to recommend_new"):
        loaded.recommend("u00", None)


@pytest.mark.parametrize(("strengths", "change"), [("log", np.log1p), ("binary", np.ones_like)])
def test_strengths_are_transformed_in_fit_and_for_new_users(strengths, change, frame):
    changed = frame.assign(count=change(frame["count"]))
    by_option = fcf.FederatedCollaborativeFilter(**OPTIONS, strengths=strengths).fit(frame)
    by_hand = fcf.FederatedCollaborativeFilter(**OPTIONS).fit(changed)
    np.testing.assert_array_equal(by_option.item_factors, by_hand.item_factors)
    np.testing.assert_array_equal(by_option.recommend_new(frame)[1], by_hand.recommend_new(changed)[1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.recommend("zed", None), "userid to be a label such as ['u00', 'u01', 'u02', ...], got"),
        (lambda m: m.similar_items(["i01", "zed"]), "expected itemid to be a label such as ['i0"),
        (lambda m: m.similar_users(99), "expected userid in [0, "),
        (lambda m: m.fit(pd.DataFrame({"who": ["a"]})), "DataFrame: no user or item column recogni"),
        (lambda m: m.recommend_new(sparse.csr_matrix((1, 3))), "expected user_items with "),
        (lambda m: fcf.FederatedCollaborativeFilter(strengths="cube"), "keep, binary, log, got 'cube'"),
    ],
)
def test_mistakes_with_labels_are_told_in_one_line(model, call, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        call(model)
    assert "\n" not in str(caught.value)
