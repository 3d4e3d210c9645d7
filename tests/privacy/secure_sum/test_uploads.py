"""Uploads written out and encoded: pieces, sparse and dense."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from references import REGULARIZATION, solve_users, upload
from small_data import MODEL

from fcf_jax.channel import Pieces, choose_formats, clip_and_noise
from fcf_jax.privacy.secure_sum import Encoding, plain_integer_sum
from fcf_jax.privacy.secure_sum.uploads import client_uploads, count_words

FORMATS = choose_formats(Pieces(60.0, 20.0, 100.0, 500.0), max_clients=13)
CLIP = clip_and_noise(clip_norms=Pieces(5.0, 5.0, 50.0, 50.0), noise_multiplier=0.0, expected_cohort_size=13)


@pytest.fixture
def item_factors(small):
    return jnp.asarray(small.item_factors, jnp.float32)


@pytest.fixture
def plain(small, item_factors):
    return lambda encoding, **options: plain_integer_sum(
        MODEL, item_factors, small.clients, encoding, **options
    )


@pytest.fixture
def sent(small, item_factors):
    """The uploads of all clients in the order of their ids."""

    def sent(**options):
        uploads, _ = jax.jit(lambda y: client_uploads(MODEL, y, small.clients, **options))(item_factors)
        order = np.argsort(uploads.client_ids, kind="stable")[:13]
        return jax.tree.map(lambda leaf: np.asarray(leaf)[order], uploads)

    return sent


def test_uploads_match_dense_reference(small, sent):
    x = solve_users(small.item_factors, small.c, small.p, regularization=REGULARIZATION)
    uploads = sent()
    np.testing.assert_array_equal(uploads.client_ids, np.arange(13))
    for user, row in enumerate(zip(x, small.c, small.p, strict=True)):
        dense = uploads.residuals[user][:, None] * uploads.sent_factors[user][None, :]
        assert np.linalg.norm(dense - upload(small.item_factors, *row)) <= 1e-3  # float32, norms up to 40
        np.testing.assert_allclose(uploads.confidence[user], row[1] - 1.0, rtol=1e-6)
    assert not uploads.is_clipped.any()


def test_clipping_scales_all_that_a_client_sends(sent):
    whole, clipped = sent(), sent(channel=CLIP)
    factor = np.linalg.norm(clipped.sent_factors, axis=1) / np.maximum(
        np.linalg.norm(whole.sent_factors, axis=1), 1e-30
    )
    assert clipped.is_clipped.any() and not clipped.is_clipped.all()
    np.testing.assert_array_equal(clipped.is_clipped, (factor < 1 - 1e-6) & (whole.loss > 0))
    np.testing.assert_allclose(clipped.loss, factor * whole.loss, rtol=1e-5)
    np.testing.assert_allclose(clipped.confidence, factor[:, None] * whole.confidence, rtol=1e-5)
    # e is never scaled, x is; two programs of float32
    np.testing.assert_allclose(clipped.residuals, whole.residuals, rtol=1e-4, atol=1e-5)


def test_pieces_that_are_not_sent_are_nan_and_send_no_words(small, plain):
    sums, words, _ = plain(Encoding(FORMATS._replace(user_gram=None, confidence_sum=None)))
    assert words.size == small.item_factors.size + 1
    assert np.isnan(sums.user_gram).all() and np.isnan(sums.num_clipped)


def test_dense_and_sparse_uploads_agree(plain):
    dense, sparse = (plain(Encoding(FORMATS, is_sparse=one), channel=CLIP)[0] for one in (False, True))
    np.testing.assert_array_equal(dense.user_gram, sparse.user_gram)
    step = 2.0**-FORMATS.upload.fraction_bits  # of each of 13 clients, and of A, which Y multiplies
    np.testing.assert_allclose(dense.upload, sparse.upload, rtol=1e-5, atol=100 * step)
    with pytest.raises(ValueError, match="user_gram"):
        plain(Encoding(FORMATS._replace(user_gram=None), is_sparse=True))


def test_words_are_those_of_the_pieces_that_are_sent():
    sizes = {"num_items": 17, "num_factors": 5}
    assert count_words(FORMATS, **sizes) == 17 * 5 + 5 * 5 + 17 + 1
    assert count_words(FORMATS._replace(upload=None, loss=None), **sizes) == 5 * 5 + 17
