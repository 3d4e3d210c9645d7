"""Bytes of the forms of messages, against messages that are really built."""

import numpy as np
import pytest
from jax import numpy as jnp
from references import NUM_FACTORS
from small_data import MODEL

from fcf_jax.channel import payload
from fcf_jax.core.client import client_update, dense_upload
from fcf_jax.core.objective import gram
from fcf_jax.core.records import ClientData, Pieces


@pytest.fixture(scope="module")
def client(small):
    """The history of one client, weighted, and the item factors."""
    y = jnp.asarray(small.item_factors, jnp.float32)
    item_ids = jnp.array([2, 5, 11])
    data = ClientData(item_ids, jnp.ones(3), jnp.ones(3, bool))
    return y, MODEL.weighting(data)


def test_own_rows_and_gram_matrix_are_all_that_a_client_needs(client):
    """The message of `own_rows`, with ids that count its rows, gives the same bits as all of Y."""
    y, observations = client
    ids, sizes = observations.item_ids, payload.Sizes(len(y), NUM_FACTORS, 3)
    full, _ = client_update(MODEL, y, observations, gram(y))
    rows = y[ids]
    own, _ = client_update(MODEL, rows, observations._replace(item_ids=jnp.arange(3)), gram(y))
    np.testing.assert_array_equal(own.user_factor, full.user_factor)
    np.testing.assert_array_equal(own.residuals, full.residuals)
    assert payload.own_rows(sizes).bytes_down == rows.nbytes + gram(y).nbytes

    # what it sends is the dense upload, once the server has added -w0 Y x x^T
    x = full.user_factor
    seen = full.residuals + MODEL.unobserved_weight * rows @ x
    sent = ids.astype(jnp.int32), seen[:, None] * x, jnp.outer(x, x), observations.confidence, jnp.zeros(())
    rebuilt = jnp.zeros_like(y).at[sent[0]].add(sent[1]) - MODEL.unobserved_weight * y @ sent[2]
    np.testing.assert_allclose(rebuilt, dense_upload(MODEL, y, full, observations), rtol=2e-5, atol=2e-5)
    assert payload.own_rows(sizes).bytes_up == sum(np.asarray(one, np.float32).nbytes for one in sent)

    # and so are its user factor and one number for each item
    sent = ids.astype(jnp.int32), seen, x, observations.confidence, jnp.zeros(())
    assert payload.rank_one(sizes).bytes_up == sum(np.asarray(one, np.float32).nbytes for one in sent)
    assert payload.dense(sizes).bytes_up == rebuilt.nbytes + jnp.outer(x, x).nbytes + 4 * len(y) + 4


def test_forms_count_what_the_step_asks_for_and_what_they_need_themselves():
    lengths = np.array([0, 10])
    sizes = payload.Sizes(100, 4, lengths, sent=("upload",))
    assert payload.dense(sizes).bytes_up == 4 * 100 * 4
    np.testing.assert_array_equal(payload.rank_one(sizes).bytes_up, [16, 16 + 10 * 8])
    np.testing.assert_array_equal(payload.own_rows(sizes).bytes_up, [64, 64 + 10 * (16 + 4)])
    np.testing.assert_array_equal(payload.own_rows(sizes).bytes_down, [64, 64 + 10 * 16])
    everything = sizes._replace(sent=Pieces._fields)
    np.testing.assert_array_equal(payload.own_rows(everything).bytes_up, [68, 68 + 10 * (16 + 4 + 4)])
