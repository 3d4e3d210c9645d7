"""The uploads that a server sees are those of the clients' own round."""

import references

ALPHA = 4.0


def test_uploads_match_dense_reference(seen):
    public, uploads, is_held, strengths = seen
    c, p = references.dense_weights(strengths, is_held, alpha=ALPHA)
    for user in (0, 7):
        x = references.solve_user(public.item_factors, c[user], p[user], regularization=1.0)
        expected = references.upload(public.item_factors, x, c[user], p[user])
        assert references.relative_error(uploads.dense[user], expected) < 1e-5  # float32
