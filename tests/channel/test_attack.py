"""What malicious clients send, against dense references, and who they are."""

import jax
import numpy as np
import pytest
from crafted_uploads import ATTACKS, FILLERS, KEY, POPULARITY, PUBLIC, ROLES, STRENGTH, TARGETS
from jax import numpy as jnp
from jax.scipy.special import expit
from references import ALPHA, REGULARIZATION, relative_error, solve_user, upload
from small_data import MODEL

from fcf_jax.channel import attack
from fcf_jax.core.cohort_sum import cohort_sum
from fcf_jax.core.packing import pack_clients
from fcf_jax.objectives import logistic

MALICIOUS = [5, 8]


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def added_row(sent, user):
    """Return the row of the user's target beyond what x x^T alone makes of it."""
    return sent.seen[user, ROLES[user]] * sent.x[user]


def length_of_honest(crafted, user):
    return np.linalg.norm(crafted()["honest"].dense[user])


@pytest.mark.parametrize("name", ATTACKS)
def test_honest_clients_send_the_same_bits(crafted, name):
    honest = ROLES < 0
    np.testing.assert_array_equal(crafted()[name].x[honest], crafted()["honest"].x[honest])
    np.testing.assert_array_equal(crafted()[name].seen[honest], crafted()["honest"].seen[honest])
    assert not np.allclose(crafted()[name].dense[~honest], crafted()["honest"].dense[~honest], rtol=0.1)


@pytest.mark.parametrize("name", ATTACKS)
def test_norms_see_what_is_sent(crafted, name):
    """A link that clips bounds crafted uploads as it does honest ones."""
    dense = np.linalg.norm(crafted()[name].dense, axis=(1, 2))
    np.testing.assert_allclose(crafted()[name].norms, dense, rtol=5e-5)  # float32, rounded up by 1e-5
    assert np.all(crafted()[name].norms >= dense * (1 - 1e-9))


def test_boosting_adds_the_gradient_of_the_target_to_the_honest_upload(small, crafted):
    for user in MALICIOUS:
        boosted, honest, target = crafted()["explicit_boosting"], crafted()["honest"], ROLES[user]
        np.testing.assert_allclose(boosted.x[user], honest.x[user])
        size = (
            STRENGTH * length_of_honest(crafted, user) * expit(-honest.x[user] @ small.item_factors[target])
        )
        assert relative_error(added_row(boosted, user), size * unit(honest.x[user])) <= 1e-4
        others = np.arange(17) != target
        first = np.flatnonzero(small.strengths[user])[0]  # its slot now holds the target
        others[first] = False
        np.testing.assert_allclose(boosted.seen[user, others], honest.seen[user, others], rtol=1e-4)


def test_rank_one_poses_as_the_mean_user_with_only_the_target(small, crafted):
    y, sent = small.item_factors, crafted()["rank_one"]
    confidence = 1 + ALPHA
    matrix = y.T @ y + (y.T * (POPULARITY * ALPHA)) @ y + REGULARIZATION * np.eye(y.shape[1])
    direction = unit(np.linalg.solve(matrix, confidence * y.T @ POPULARITY))
    for user in MALICIOUS:
        x = np.linalg.norm(crafted()["honest"].x[user]) * direction
        assert relative_error(sent.x[user], x) <= 1e-4
        assert (
            relative_error(added_row(sent, user), STRENGTH * length_of_honest(crafted, user) * direction)
            <= 1e-4
        )
        assert np.flatnonzero(sent.seen[user]).tolist() == [ROLES[user]]


def test_fed_rec_attack_follows_the_gradient_of_its_loss(small, crafted):
    """The gradient of the published loss with respect to y_t, by finite differences."""
    y, sent, step = small.item_factors, crafted()["fed_rec_attack"], 1e-6
    held = np.zeros((3, 17), bool)
    for person, (ids, mask) in enumerate(zip(PUBLIC.item_ids, PUBLIC.mask, strict=True)):
        held[person, np.asarray(ids)[np.asarray(mask)]] = True
    x = np.stack([
        solve_user(y, np.where(row, 1 + ALPHA, 1.0), row.astype(float), regularization=REGULARIZATION)
        for row in held
    ])  # fmt: skip
    others = np.where(held, -np.inf, x @ y.T)
    others[:, TARGETS] = -np.inf
    last = np.sort(others, axis=1)[:, -10]

    def loss(of_target, target):
        missed = last - x @ of_target
        return np.sum(np.where(held[:, target], 0, np.where(missed >= 0, missed, np.exp(missed) - 1)))

    for user in MALICIOUS:
        target = ROLES[user]
        moves = step * np.eye(y.shape[1])
        slope = [loss(y[target] + move, target) - loss(y[target] - move, target) for move in moves]
        downhill = STRENGTH * length_of_honest(crafted, user) * unit(-np.array(slope))
        assert relative_error(added_row(sent, user), downhill) <= 1e-3
        rest = np.delete(sent.dense[user], target, axis=0)
        assert np.linalg.norm(rest) <= 1e-5 * length_of_honest(crafted, user)


def test_poisoned_history_is_what_the_protocol_makes_of_it(small, crafted):
    for user in MALICIOUS:
        sent, target = crafted()["poisoned_history"], ROLES[user]
        held = np.flatnonzero(sent.seen[user])  # a row of width 4: the target and three fillers, or two
        fillers = set(held.tolist()) - {target}
        assert target in held and fillers <= set(FILLERS.tolist()) and len(fillers) in (2, 3)
        strengths = np.where(held == target, STRENGTH, 1.0)
        c, p = np.ones(17), np.zeros(17)
        c[held], p[held] = 1 + ALPHA * strengths, 1.0
        x = solve_user(small.item_factors, c, p, regularization=REGULARIZATION)
        assert relative_error(sent.dense[user], upload(small.item_factors, x, c, p)) <= 1e-4


def test_noise_has_the_stated_length(crafted):
    sent, honest = crafted()["untargeted_noise"], crafted()["honest"]
    rows = np.linalg.norm(sent.seen[MALICIOUS], axis=1) * np.linalg.norm(sent.x[MALICIOUS], axis=1)
    expected = [STRENGTH * length_of_honest(crafted, user) for user in MALICIOUS]
    np.testing.assert_allclose(rows, expected, rtol=1.0)  # of a few normal numbers
    np.testing.assert_allclose(*(np.linalg.norm(one.x, axis=1) for one in (sent, honest)), rtol=1e-5)


def test_attacks_are_invariant_to_chunks_and_a_strength_does_not_recompile(small, crafted, num_compiled):
    y = jnp.asarray(small.item_factors, jnp.float32)
    one_chunk = pack_clients(small.interactions, row_width=4, chunk_slots=256, chunk_clients=13)

    @jax.jit
    def sums(link):
        return cohort_sum(MODEL, y, one_chunk, channel=link, key=KEY)[0].upload

    for name in ("poisoned_history", "untargeted_noise"):
        assert relative_error(sums(ATTACKS[name]()), crafted()[name].dense.sum(axis=0)) <= 1e-4, name
    before = num_compiled()
    sums(attack.untargeted_noise(ROLES, strength=9.0))
    assert num_compiled() == before


def test_malicious_users_are_nested_and_share_the_targets():
    lengths = np.where(np.arange(1000) % 10, 3, 0)  # a tenth has no history
    drawn = [
        np.asarray(attack.draw_malicious(KEY, lengths, share=share, targets=TARGETS))
        for share in (0, 0.001, 0.02)
    ]
    few, many = (set(np.flatnonzero(each >= 0).tolist()) for each in drawn[1:])
    assert np.all(drawn[0] < 0) and len(few) == 1 and len(many) == 18 and few < many
    assert all(lengths[user] for user in many)
    assert np.unique(drawn[2][drawn[2] >= 0], return_counts=True)[1].tolist() == [9, 9]


def test_targets_are_unpopular_items_that_somebody_has():
    counts = np.array([0, 5, 1, 9, 2, 0, 7])
    assert sorted(attack.draw_targets(KEY, counts, num_targets=3).tolist()) == [1, 2, 4]
    with pytest.raises(ValueError, match=r"num_targets from 1 to 3.*got 4"):
        attack.draw_targets(KEY, counts, num_targets=4)


def test_public_histories_are_a_share_of_the_interactions(small):
    public = attack.public_interactions(small.interactions, share=1.0, max_users=20)
    assert int(public.mask.sum()) == small.interactions.num_interactions and len(public.mask) == 12
    some = attack.public_interactions(small.interactions, share=0.3, max_users=4, seed=1)
    assert 0 < int(some.mask.sum()) < int(public.mask.sum()) and len(some.mask) <= 4
    with pytest.raises(ValueError, match=r"share in \(0, 1\]"):
        attack.public_interactions(small.interactions, share=0.0)


def test_other_objectives_are_refused(small):
    other, y = MODEL._replace(objective=logistic()), jnp.asarray(small.item_factors, jnp.float32)
    channel = attack.explicit_boosting(ROLES, strength=1.0)
    with pytest.raises(ValueError, match="expected squared errors without biases under attack, got logistic"):
        jax.eval_shape(lambda: cohort_sum(other, y, small.clients, channel=channel))
